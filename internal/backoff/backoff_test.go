package backoff

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestRetryDelayGrowsAndStaysWithinItsBounds(t *testing.T) {
	var f Failure
	for i := range 40 {
		f = f.Next(t0, "bank", errors.New("x"), false, 0)
		least := min(firstRetry<<min(i, 20), lastRetry) * 8 / 10
		most := min(firstRetry<<min(i, 20), lastRetry) * 12 / 10
		if d := f.Retry.Sub(t0); d < least || d > most {
			t.Errorf("failure %d: waits %v, want %v to %v", f.Count, d, least, most)
		}
	}
	if f = f.Next(t0, "bank", errors.New("x"), false, provenAfter); f.Retry != t0 || f.Count != 1 {
		t.Errorf("a proxy that had served waits %v", f.Retry.Sub(t0))
	}
	if f = f.Next(t0, "bank", errors.New("x"), false, time.Second); !f.Retry.After(t0) {
		t.Error("a proxy that dies again at once is started without a pause: a busy loop")
	}
}

// Proxies that died at the same moment do not come back at the same moment.
func TestRetriesAreApart(t *testing.T) {
	at := map[time.Time]bool{}
	for i := range 100 {
		at[Failure{}.Next(t0, fmt.Sprint("vm", i), errors.New("x"), false, 0).Retry] = true
	}
	if len(at) < 90 {
		t.Errorf("100 proxies are tried again at %d moments", len(at))
	}
}
