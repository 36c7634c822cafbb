package plan

import (
	"maps"
	"testing"
	"time"

	"vifproxy/internal/policy"
)

// TestBelieve: what is new is believed at once, another page soon, and that one is missing only when it has been missing for a while.
func TestBelieve(t *testing.T) {
	type places = policy.Places
	var m Moved
	var known policy.Places
	now := t0
	look := func(seen, want places, after time.Duration) {
		t.Helper()
		believed, next := m.Believe(known, seen, now)
		var wait time.Duration
		if !next.IsZero() {
			wait = next.Sub(now)
		}
		if !maps.Equal(believed, want) || wait != after {
			t.Errorf("%v after %v: %v, to be looked at after %v; want %v, after %v", seen, now.Sub(t0), believed, wait, want, after)
		}
		known, now = believed, now.Add(wait)
	}
	first := places{"": "all", "a": "1", "b": "1"}
	look(first, first, 0)
	other := places{"": "all", "a": "2", "b": "1", "c": "1"}
	look(other, places{"": "all", "a": "1", "b": "1", "c": "1"}, movedFor)
	look(other, other, 0)
	look(places{"": "all", "a": "2"}, places{"": "all", "a": "2"}, 0) // nobody needs the others any more

	// It is taken away and made again; and then moved away and back.
	gone := places{"": "all", "a": ""}
	look(gone, places{"": "all", "a": "2"}, goneFor)
	now = now.Add(-goneFor / 2)
	look(places{"": "all", "a": "3"}, places{"": "all", "a": "2"}, movedFor)
	look(places{"": "all", "a": "3"}, places{"": "all", "a": "3"}, 0)
	look(gone, places{"": "all", "a": "3"}, goneFor)
	now = now.Add(-goneFor / 2)
	look(places{"": "all", "a": "3"}, places{"": "all", "a": "3"}, 0)

	// It is gone for good.
	look(gone, places{"": "all", "a": "3"}, goneFor)
	look(gone, gone, 0)
}
