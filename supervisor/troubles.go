package supervisor

import (
	"log/slog"
	"slices"
	"time"
)

// troubles are the failures that are not one AppVM's: of reading an input, of writing the firewall. While one
// lasts, nothing that depends on it changes.
type troubles map[string]Failure

// note records how an attempt went, logs a change, and returns when to try again; zero after a success.
func (t troubles) note(log *slog.Logger, now time.Time, what string, err error) time.Time {
	before, had := t[what]
	if err == nil {
		if had {
			delete(t, what)
			log.Info("works again", "what", what)
		}
		return time.Time{}
	}
	if !had || before.Err.Error() != err.Error() {
		log.Error("cannot go on with what changed: all stays as it was", "what", what, "err", err)
	}
	t[what] = before.next(now, err, false, 0)
	return t[what].Retry
}

// list is the troubles as a person reads them, in a stable order.
func (t troubles) list() []string {
	var all []string
	for what, f := range t {
		all = append(all, what+": "+f.Err.Error())
	}
	slices.Sort(all)
	return all
}
