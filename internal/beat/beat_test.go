package beat

import (
	"testing"
	"time"
)

func TestJobsAreDueTogether(t *testing.T) {
	together := map[time.Time]int{}
	begin := time.Now()
	for i, interval := range []time.Duration{10 * time.Second, 20 * time.Second, 30 * time.Second} {
		now := begin.Add(time.Duration(i) * time.Second)
		for first := true; now.Sub(begin) < time.Hour; first = false {
			next := Next(now, interval)
			if d := next.Sub(now); d <= 0 || d > interval || !first && d != interval {
				t.Fatalf("after %v, the next job of each %v is due after %v", now, interval, d)
			}
			together[next.Round(0)]++
			now = next
		}
	}
	if n := len(together); n > 365 {
		t.Errorf("jobs are due at %d moments in an hour", n)
	}
}
