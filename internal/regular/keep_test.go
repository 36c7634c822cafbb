package regular

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A change is written after the delay, the next one not before the interval is over, what has failed is tried again, and the end is a write.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay, interval = time.Second, time.Minute
		full := errors.New("no space left on device")
		outcomes := []error{nil, full, full, nil, nil}
		began := time.Now()
		var at []time.Duration
		var reports []error
		changed := make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go Keep(ctx, changed, delay, interval, func() error {
			at = append(at, time.Since(began))
			return outcomes[len(at)-1]
		}, func(err error) { reports = append(reports, err) })
		changed <- struct{}{}
		time.Sleep(2 * delay)
		changed <- struct{}{}
		time.Sleep(time.Hour)
		synctest.Wait()
		cancel()
		synctest.Wait()
		second := delay + interval + delay
		want := []time.Duration{delay, second, second + retryDelay + delay, second + 2*(retryDelay+delay), 2*delay + time.Hour}
		if !slices.Equal(at, want) || !slices.Equal(reports, outcomes) {
			t.Errorf("written at %v, reported %v; want %v, %v", at, reports, want, outcomes)
		}
	})
}
