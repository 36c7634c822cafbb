package process

import (
	"context"
	"sync"
	"time"

	"vifproxy/tinyproxy"
)

// versionTimeout is how long a program may take to print its version. After that, its configuration stays as it is.
const versionTimeout = time.Second

// versions keeps what the program of the last start was.
type versions struct {
	mu    sync.Mutex
	asked tinyproxy.Binary
	old   bool
}

// isOld reports whether a program needs the directives that only 1.10 knows, or may need them.
func (v *versions) isOld(ctx context.Context, program tinyproxy.Binary) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.asked == program {
		return v.old
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	version, err := program.Version(ctx)
	old := err != nil || tinyproxy.NeedsObsolete(version)
	if ctx.Err() == nil { // otherwise the next start asks again
		v.asked, v.old = program, old
	}
	return old
}
