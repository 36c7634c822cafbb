package supervisor

import (
	"fmt"
	"time"

	"vifproxy/internal/news"
	"vifproxy/rules"
)

// longWriteMin is how long somebody may write a file before that is a trouble.
const longWriteMin = 30 * time.Second

var errStillWritten = fmt.Errorf("has not been complete for %v: what it said before stays in force", longWriteMin)

// noteWriters notes which files somebody has been writing for long, and when that is over.
func (l *loop) noteWriters(set rules.Set, now time.Time) {
	errs := []error{set.TemplateErr}
	for _, refused := range set.Refused {
		errs = append(errs, refused.Err)
	}
	writing := map[string]bool{}
	for _, err := range errs {
		flaw := news.Unsettled(err)
		if flaw == nil {
			continue
		}
		writing[flaw.Path] = true
		if since, known := l.writers[flaw.Path]; !known {
			l.writers[flaw.Path] = now
		} else if now.Sub(since) >= longWriteMin {
			l.troubles.Note(l.Events, now, flaw.Path, errStillWritten)
		}
	}
	for path := range l.writers {
		if !writing[path] {
			delete(l.writers, path)
			l.troubles.Note(l.Events, now, path, nil)
		}
	}
}
