package unanswered

import (
	"fmt"
	"strings"
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

// TestAll: whatever is late, all others are asked about, each once, and have their answers.
func TestAll(t *testing.T) {
	const all = "abcd"
	for _, late := range []string{"", "a", "b", "d", "ab", "bcd", "abcd"} {
		synctest.Test(t, func(t *testing.T) {
			var q Questions
			asked := map[string]int{}
			late, answers := late, make(chan struct{})
			ask := func() (missing string) {
				answered := All(&q, strings.Split(all, ""), time.Second, func(about string) string {
					q.mu.Lock()
					asked[about]++
					q.mu.Unlock()
					if strings.Contains(late, about) {
						<-answers
					} else {
						time.Sleep(time.Second - 1) // slow, but in time
					}
					return about
				})
				for about := range strings.SplitSeq(all, "") {
					if answer, ok := answered[about]; !ok {
						missing += about
					} else if answer != about {
						t.Errorf("the answer about %s is %s", about, answer)
					}
				}
				return missing
			}
			for range 2 { // what is late is not asked about again
				if missing := ask(); missing != late || q.Open() != len(late) {
					t.Errorf("no answers about %q in place of %q; %d questions are open", missing, late, q.Open())
				}
			}
			close(answers)
			synctest.Wait()
			if missing := ask(); missing != "" || q.Open() != 0 {
				t.Errorf("no answers about %q in the end; %d questions are open", missing, q.Open())
			}
			for about := range strings.SplitSeq(all, "") {
				want := 3
				if strings.Contains(late, about) {
					want = 2
				}
				if asked[about] != want {
					t.Errorf("asked %d times about %s, want %d", asked[about], about, want)
				}
			}
		})
	}
}

// TestAllIsCheap: what is in time takes no goroutine and no timer of its own.
func TestAllIsCheap(t *testing.T) {
	const many = 100
	var about []string
	for i := range many {
		about = append(about, fmt.Sprint(i))
	}
	var q Questions
	of := func(n int) float64 {
		return testing.AllocsPerRun(20, func() { All(&q, about[:n], time.Hour, func(string) int { return 0 }) })
	}
	if one, all := of(1), of(many); all > one+many/2 {
		t.Errorf("%v allocations for one, %v for %d", one, all, many)
	}
}
