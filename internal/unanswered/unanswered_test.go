package unanswered

import (
	"fmt"
	"strconv"
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
				}, nil)
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

// TestManyAreLate: the times of those that are late do not add up, however they become known. Things with an uneven number
// are late, and those with an even one tell of others.
func TestManyAreLate(t *testing.T) {
	const most, things = time.Second, 2 * atOnceMax
	about := func(from, to int) (all []string) {
		for i := from; i < to; i++ {
			all = append(all, fmt.Sprint(i))
		}
		return all
	}
	below := func(thing, _ string) []string {
		i, _ := strconv.Atoi(thing)
		return append(about(2*i, min(2*i+4, things)), "2") // and one that was there before
	}
	for _, c := range []struct {
		name  string
		about []string
		more  func(string, string) []string
	}{
		{"all are known before", about(2, things), nil},
		{"answers tell of others", about(2, things/4), below},
		{"one after another", about(2, 4), func(thing, _ string) []string {
			i, _ := strconv.Atoi(thing)
			return about(i+1, min(i+3, things))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var q Questions
				var asked atomic.Int32
				end := make(chan struct{})
				begin := time.Now()
				answers := All(&q, c.about, most, func(thing string) string {
					asked.Add(1)
					if i, _ := strconv.Atoi(thing); i%2 == 1 {
						<-end
					}
					return thing
				}, c.more)
				if took := time.Since(begin); took > 2*(most+most/steps) {
					t.Errorf("it took %v", took)
				}
				if len(answers) != things/2-1 || q.Open() != things/2-1 || asked.Load() != things-2 {
					t.Errorf("%d asked, %d answers, %d open", asked.Load(), len(answers), q.Open())
				}
				close(end)
				synctest.Wait()
				if q.Open() != 0 {
					t.Errorf("%d are open in the end", q.Open())
				}
			})
		})
	}
}

// TestNotAllAtOnce: however many are late, no more than atOnceMax wait at the same time for the first time.
func TestNotAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Questions
		var waiting, most atomic.Int32
		about := make([]string, 5*atOnceMax)
		for i := range about {
			about[i] = fmt.Sprint(i)
		}
		end := make(chan struct{})
		answers := All(&q, about, time.Second, func(thing string) string {
			if thing == "0" {
				<-end
				return ""
			}
			if now := waiting.Add(1); now > most.Load() {
				most.Store(now)
			}
			time.Sleep(time.Second / 2)
			waiting.Add(-1)
			return thing
		}, nil)
		if len(answers) != len(about)-1 || most.Load() != atOnceMax {
			t.Errorf("%d answers; %d at once", len(answers), most.Load())
		}
		close(end)
	})
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
		return testing.AllocsPerRun(20, func() { All(&q, about[:n], time.Hour, func(string) int { return 0 }, nil) })
	}
	if one, all := of(1), of(many); all > one+many/2 {
		t.Errorf("%v allocations for one, %v for %d", one, all, many)
	}
}
