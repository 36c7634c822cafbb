package tinyproxy

import (
	"context"
	"strings"
	"sync"
	"time"
)

// obsoleteDirectives are those without which 1.10 does not start. 1.11 and later ignore them, with a warning for each line
// at each start (HANDLE_FUNC (handle_obsolete) in src/conf.c of 1.11.0).
var obsoleteDirectives = map[string]bool{
	"startservers": true, "minspareservers": true, "maxspareservers": true, "maxrequestsperchild": true,
}

// versionTimeout is how long a program may take to say its version before its configuration stays as it is.
const versionTimeout = time.Second

// versions remembers what the program of the last start was.
type versions struct {
	mu    sync.Mutex
	asked Binary
	old   bool
}

// isOld reports whether a program wants obsoleteDirectives, or may want them: it is 1.10 or does not say.
func (v *versions) isOld(ctx context.Context, program Binary) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.asked == program {
		return v.old
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	version, err := program.Version(ctx)
	old := err != nil || !strings.HasPrefix(version, "tinyproxy ") || strings.HasPrefix(version, "tinyproxy 1.10")
	if ctx.Err() == nil { // else it is asked again
		v.asked, v.old = program, old
	}
	return old
}

// withoutObsolete returns a configuration without obsoleteDirectives. A comment is left in the place of each, so that line
// numbers in tinyproxy's messages stay the template's.
func withoutObsolete(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if name, _ := directive(strings.TrimRight(line, "\n")); obsoleteDirectives[name] {
			line = "#\n"
		}
		kept.WriteString(line)
	}
	return kept.String()
}
