package news

import (
	"fmt"
	"time"

	"vifproxy/internal/events"
	"vifproxy/rules"
)

// LongWriteMin is how long somebody may write a file before that is a trouble.
const LongWriteMin = 30 * time.Second

// ErrStillWritten is the trouble.
var ErrStillWritten = fmt.Errorf("has not been complete for %v: what it said before stays in force", LongWriteMin)

// Writers is the files that are not complete, and since when. They belong to one goroutine.
type Writers map[string]time.Time

// Note notes which files of a reading somebody has been writing for long, and when that is over, and whether there are lists that could
// not be read.
func (w Writers) Note(emitter *events.Emitter, troubles Troubles, set rules.Set, now time.Time) {
	unknown := set.Unknown
	if unknown != nil {
		unknown = fmt.Errorf("%w: the last ones that were read stay in force, and AppVMs that come wait", unknown)
	}
	troubles.Note(emitter, now, "lists from dom0", unknown)
	errs := []error{set.TemplateErr, set.CeilingErr}
	for _, refused := range set.Refused {
		errs = append(errs, refused.Err)
	}
	writing := map[string]bool{}
	for _, err := range errs {
		flaw := Unsettled(err)
		if flaw == nil {
			continue
		}
		writing[flaw.Path] = true
		if since, known := w[flaw.Path]; !known {
			w[flaw.Path] = now
		} else if now.Sub(since) >= LongWriteMin {
			troubles.Note(emitter, now, flaw.Path, ErrStillWritten)
		}
	}
	for path := range w {
		if !writing[path] {
			delete(w, path)
			troubles.Note(emitter, now, path, nil)
		}
	}
}
