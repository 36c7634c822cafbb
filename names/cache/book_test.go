package cache

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/names/ask"
)

// A script is an asker whose answers a test writes. Its time is that of the test.
type script struct {
	mu      sync.Mutex
	asked   map[dnsmessage.Type]int
	answer  func(name string, t dnsmessage.Type, n int) (ask.Answer, time.Duration, error)
	silent  bool
	version int
}

func (s *script) Ask(ctx context.Context, name string, t dnsmessage.Type) (ask.Answer, error) {
	s.mu.Lock()
	if s.asked == nil {
		s.asked = map[dnsmessage.Type]int{}
	}
	n := s.asked[t]
	s.asked[t]++
	answer, after, err := s.answer(name, t, n)
	s.mu.Unlock()
	select {
	case <-time.After(after):
		return answer, err
	case <-ctx.Done():
		return ask.Answer{}, ctx.Err()
	}
}

func (s *script) Silent() bool { return s.silent }
func (s *script) Version() int { return s.version }

// counts returns how many questions of types A and AAAA there were.
func (s *script) counts() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%d %d", s.asked[dnsmessage.TypeA], s.asked[dnsmessage.TypeAAAA])
}

// number returns an address that tells the nth answer.
func number(n int) []netip.Addr { return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})} }

func yes() bool { return true }

// newBook returns a Book whose clock is that of the test.
func newBook(ctx context.Context, asker Asker, ipv4 func() bool) *Book {
	b := New(ctx, asker, ipv4)
	b.now = time.Now
	return b
}

// look looks, and returns what came of it and how long it took.
func look(t *testing.T, b *Book, name string) string {
	t.Helper()
	began := time.Now()
	result, err := b.Look(t.Context(), name)
	took := time.Since(began)
	if err != nil {
		return fmt.Sprintf("%v (%v)", err, took)
	}
	return fmt.Sprintf("%v %v %v %v (%v)", result.Addrs4, result.Addrs6, result.TTL, result.Stale, took)
}

// Time passes: an answer is true for its TTL, is asked for again before that ends if it is in use, and is given out although it is old
// while the servers are silent.
func TestBookKeepsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := false
		s := &script{answer: func(_ string, kind dnsmessage.Type, n int) (ask.Answer, time.Duration, error) {
			if kind == dnsmessage.TypeAAAA || down {
				return ask.Answer{}, 10 * time.Second, &ask.Error{Reason: ask.Silent}
			}
			return ask.Answer{Addrs: number(n), TTL: time.Minute}, 20 * time.Millisecond, nil
		}}
		b := newBook(t.Context(), s, yes)
		step := func(after time.Duration, want, asked string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			got := look(t, b, "Bank.example")
			synctest.Wait()
			if got != want || s.counts() != asked {
				t.Errorf("%s after %s questions, want %s after %s", got, s.counts(), want, asked)
			}
		}
		step(0, "[192.0.2.0] [] 1m0s false (20ms)", "1 1") // nobody waits for AAAA
		step(10*time.Second, "[192.0.2.0] [] 50s false (0s)", "1 1")
		step(45*time.Second, "[192.0.2.0] [] 5s false (0s)", "2 1") // prefetch
		step(time.Second, "[192.0.2.1] [] 59.02s false (0s)", "2 1")
		step(60*time.Second, "[192.0.2.2] [] 1m0s false (20ms)", "3 2") // it was not in use
		down = true
		step(55*time.Second, "[192.0.2.2] [] 5s false (0s)", "4 2")
		step(6*time.Second, "[192.0.2.2] [] 30s true (1.8s)", "4 3") // the prefetch is still under way, and joined
		time.Sleep(4 * time.Second)                                  // it fails
		step(0, "[192.0.2.2] [] 30s true (0s)", "4 3")               // too early for another question
		step(10*time.Second, "[192.0.2.2] [] 30s true (1.8s)", "5 4")
		s.silent = true
		step(20*time.Second, "[192.0.2.2] [] 30s true (100ms)", "6 5") // known to be silent
		step(24*time.Hour, " (10s)", "7 6")
		down, s.silent = false, false
		step(10*time.Second, "[192.0.2.7] [] 1m0s false (20ms)", "8 7")
		s.version++ // another resolv.conf
		step(time.Second, "[192.0.2.8] [] 1m0s false (20ms)", "9 8")
	})
}

// Many who look at the same time ask once, and the end of one does not end the question of the others.
func TestOneFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(_ string, kind dnsmessage.Type, n int) (ask.Answer, time.Duration, error) {
			return ask.Answer{Addrs: here, TTL: 0}, time.Second, nil
		}}
		b := newBook(t.Context(), s, yes)
		first, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		var looking sync.WaitGroup
		looking.Go(func() {
			if _, err := b.Look(first, "a"); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		for i := range 100 {
			looking.Go(func() {
				time.Sleep(time.Duration(i) * 9 * time.Millisecond)
				if result, err := b.Look(t.Context(), "a"); err != nil || len(result.Addrs4) != 1 || result.TTL > time.Second {
					t.Error(result, err)
				}
			})
		}
		looking.Wait()
		if s.counts() != "1 1" {
			t.Errorf("%s questions", s.counts())
		}
		time.Sleep(time.Second) // an answer of TTL 0 is for those who have waited, and for a second
		if _, err := b.Look(t.Context(), "a"); err != nil || s.counts() != "2 2" {
			t.Error(err, s.counts())
		}
	})
}

// A failure is told at once for a moment, and then it is tried again. Too many questions are none.
func TestBookFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(_ string, kind dnsmessage.Type, n int) (ask.Answer, time.Duration, error) {
			return ask.Answer{}, time.Hour, &ask.Error{Reason: ask.ServerError}
		}}
		ctx, cancel := context.WithCancel(t.Context())
		b := newBook(ctx, s, yes)
		var looking sync.WaitGroup
		for i := range flightsMax / 2 {
			looking.Go(func() { b.Look(t.Context(), fmt.Sprint(i)) })
		}
		synctest.Wait()
		_, err := b.Look(t.Context(), "one more")
		var e *ask.Error
		if !errors.As(err, &e) || e.Reason != ask.Busy {
			t.Error(err)
		}
		cancel()
		looking.Wait()

		b = newBook(t.Context(), s, yes)
		s.asked = nil
		for i, want := range []string{"1 1", "1 1", "2 2"} {
			if _, err := b.Look(t.Context(), "a"); !errors.As(err, &e) || e.Reason != ask.ServerError || s.counts() != want {
				t.Errorf("%d: %v after %s questions", i, err, s.counts())
			}
			time.Sleep(failureTime * 6 / 10)
		}
	})
}

// Without a route for IPv4, addresses of IPv6 are told; else those only if there are no others.
func TestBookFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(name string, kind dnsmessage.Type, n int) (ask.Answer, time.Duration, error) {
			switch {
			case kind == dnsmessage.TypeAAAA:
				return ask.Answer{Addrs: six1, TTL: time.Minute}, time.Second, nil
			case name == "six":
				return ask.Answer{TTL: time.Minute}, 0, nil
			}
			return ask.Answer{Addrs: here, TTL: time.Minute}, 0, nil
		}}
		ipv4 := true
		b := newBook(t.Context(), s, func() bool { return ipv4 })
		for _, c := range []struct {
			name string
			ipv4 bool
			want string
		}{
			{"both", true, "[192.0.2.1] [] 1m0s false (0s)"},
			{"six", true, "[] [2001:db8::1] 1m0s false (1s)"},
			{"both", false, "[] [2001:db8::1] 1m0s false (0s)"}, // the question that nobody waited for
			{"six", false, "[] [2001:db8::1] 1m0s false (0s)"},
		} {
			ipv4 = c.ipv4
			if got := look(t, b, c.name); got != c.want {
				t.Errorf("%s, IPv4 %t: %s, want %s", c.name, c.ipv4, got, c.want)
			}
		}
	})
}

// A name that has addresses of IPv6 only: these are given out although they are old, if nobody answers AAAA any more.
func TestOldAddressesOfIPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := false
		s := &script{answer: func(_ string, kind dnsmessage.Type, n int) (ask.Answer, time.Duration, error) {
			switch {
			case kind == dnsmessage.TypeA:
				return ask.Answer{TTL: time.Hour}, 0, nil
			case down:
				return ask.Answer{}, time.Second, &ask.Error{Reason: ask.ServerError}
			}
			return ask.Answer{Addrs: six1, TTL: 24 * time.Hour}, 0, nil
		}}
		b := newBook(t.Context(), s, yes)
		for _, c := range []struct {
			after time.Duration
			want  string
		}{
			{0, "[] [2001:db8::1] 1h0m0s false (0s)"}, // however long the server says
			{2 * time.Hour, "[] [2001:db8::1] 30s true (1s)"},
			{time.Second, "[] [2001:db8::1] 30s true (0s)"}, // too early for another question
		} {
			time.Sleep(c.after)
			if got := look(t, b, "six"); got != c.want {
				t.Errorf("after %v: %s, want %s", c.after, got, c.want)
			}
			down = true
		}
	})
}
