package process

import (
	"context"
	"sync"
	"time"

	"vifproxy/tinyproxy"
)

// versionTimeout is how long a program may take to say its version before its configuration stays as it is.
const versionTimeout = time.Second

// versions remembers what the program of the last start was.
type versions struct {
	mu    sync.Mutex
	asked tinyproxy.Binary
	old   bool
}

// isOld reports whether a program wants the directives that only 1.10 knows, or may want them.
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
	if ctx.Err() == nil { // else it is asked again
		v.asked, v.old = program, old
	}
	return old
}
