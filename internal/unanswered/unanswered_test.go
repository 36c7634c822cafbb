package unanswered

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestAsk: what does not answer is asked once, others meanwhile, and it again when it has answered.
func TestAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Questions
		var asked atomic.Int32
		answers := make(chan string)
		ask := func(about string) (string, bool) {
			return Ask(&q, about, time.Second, func() string {
				if asked.Add(1); about == "dead" {
					return <-answers
				}
				return about
			})
		}
		for range 2 {
			if answer, ok := ask("dead"); ok || asked.Load() != 1 || q.Open() != 1 {
				t.Errorf("%q, %t; asked %d times, %d are open", answer, ok, asked.Load(), q.Open())
			}
		}
		if answer, ok := ask("alive"); !ok || answer != "alive" || q.Open() != 1 {
			t.Errorf("another: %q, %t; %d are open", answer, ok, q.Open())
		}
		answers <- "late"
		synctest.Wait()
		if q.Open() != 0 {
			t.Errorf("%d are open", q.Open())
		}
		go func() { answers <- "again" }()
		if answer, ok := ask("dead"); !ok || answer != "again" {
			t.Errorf("%q, %t", answer, ok)
		}
	})
}
