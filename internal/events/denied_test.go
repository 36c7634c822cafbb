package events

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	vmA = netip.MustParseAddr("10.137.0.1")
	vmB = netip.MustParseAddr("10.137.0.2")
)

// FuzzRefusals compares the list of one AppVM with a plain record of everything, refused at random.
func FuzzRefusals(f *testing.F) {
	f.Add(uint64(1), uint(3), uint(100))
	f.Add(uint64(2), uint(DeniedHostsMax), uint(1000))
	f.Add(uint64(3), uint(DeniedHostsMax+1), uint(2000))
	f.Add(uint64(4), uint(5000), uint(3000))
	f.Fuzz(func(t *testing.T, seed uint64, names, refusals uint) {
		names, refusals = names%10000+1, refusals%5000
		random := rand.New(rand.NewPCG(seed, 0))
		now := time.Unix(1e9, 0)
		var all []string // in order
		var times []time.Time
		list := New(slog.New(slog.DiscardHandler)).listOf(vmA)
		for range refusals {
			now = now.Add(time.Duration(random.IntN(3)) * time.Second)
			host := fmt.Sprint(random.UintN(names))
			all, times = append(all, host), append(times, now)
			list.add(DeniedHost{Host: host}, now)
		}
		got := list.since(time.Time{})
		if len(got) > DeniedHostsMax || len(got) != len(list.hosts) {
			t.Fatalf("%d hosts", len(got))
		}
		sum := list.forgotten
		for i, h := range got {
			sum += h.Count
			last := len(all) - 1
			for all[last] != h.Host {
				last--
			}
			if !h.Last.Equal(times[last]) || h.First.After(h.Last) {
				t.Errorf("%+v, last at %v", h, times[last])
			}
			if i > 0 && got[i-1].Last.Before(h.Last) {
				t.Errorf("%+v comes after %+v", h, got[i-1])
			}
		}
		if sum != len(all) {
			t.Errorf("%d of %d refusals accounted for", sum, len(all))
		}
		// The newest names are those listed.
		newest := map[string]bool{}
		for i := len(all) - 1; i >= 0 && len(newest) < DeniedHostsMax; i-- {
			newest[all[i]] = true
		}
		if len(newest) != len(got) {
			t.Errorf("%d names listed, want %d", len(got), len(newest))
		}
		for _, h := range got {
			if !newest[h.Host] {
				t.Errorf("%s is not among the newest", h.Host)
			}
		}
		since := now.Add(-time.Minute)
		recent := list.since(since)
		want := slices.DeleteFunc(slices.Clone(got), func(h DeniedHost) bool { return h.Last.Before(since) })
		if !slices.Equal(recent, want) {
			t.Errorf("since %v: %v, want %v", since, recent, want)
		}
	})
}

// TestOneAppVMCannotFloodAnother lets one AppVM be refused a hundred thousand names, each as long as can be.
func TestOneAppVMCannotFloodAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log countingHandler
		e := New(slog.New(&log))
		e.Denied(Denial{VM: "quiet", IP: vmB, Host: "shop.example"})
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		const requests = 20_000
		for i := range requests {
			e.Denied(Denial{VM: "loud", IP: vmA, Host: fmt.Sprintf("%01020d", i)})
			if i%100 == 0 {
				time.Sleep(time.Second)
			}
		}
		if grown := int64(heap()) - int64(before); grown > 1<<20 {
			t.Errorf("the heap has grown by %d bytes", grown)
		}
		hosts, forgotten := e.DeniedTo(vmA, time.Time{})
		if len(hosts) != DeniedHostsMax || forgotten != requests-DeniedHostsMax {
			t.Errorf("%d hosts, %d forgotten", len(hosts), forgotten)
		}
		if hosts, _ := e.DeniedTo(vmB, time.Time{}); len(hosts) != 1 || hosts[0].Host != "shop.example" {
			t.Errorf("the other one's list: %v", hosts)
		}
		if most := requests/100 + deniedBurst + 2; log.lines > most || log.lines < requests/100 {
			t.Errorf("%d lines in the log, at most %d", log.lines, most)
		}
		time.Sleep(time.Hour)
		e.Denied(Denial{VM: "loud", IP: vmA, Host: "last"})
		if log.shown+log.notShown != requests+2 {
			t.Errorf("the log tells of %d refusals and of %d that are not shown", log.shown, log.notShown)
		}
		e.Forget(func(vm netip.Addr) bool { return vm != vmB })
		if hosts, _ := e.DeniedTo(vmA, time.Time{}); len(hosts) != 0 || len(e.denied) != 1 {
			t.Errorf("after its rule file has gone: %v", hosts)
		}
	})
}

// A request for a name without an address is recorded with what the resolver says of the name, if that is late too, and without it if
// the resolver says nothing.
func TestReasonThatIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		e := New(slog.New(slog.DiscardHandler))
		e.NamesBy(func(d Denial) (Denial, bool) {
			known := d.Host == "late.example" && time.Since(began) > 200*time.Millisecond
			if known {
				d.What = FenceRefused
			}
			return d, known
		})
		for _, host := range []string{"late.example", "unknown.example"} {
			e.Denied(Denial{VM: "social", IP: vmA, Host: host, Reason: ReasonName})
		}
		time.Sleep(time.Second)
		hosts, _ := e.DeniedTo(vmA, time.Time{})
		if len(hosts) != 2 || hosts[0].Host != "unknown.example" || hosts[0].What != "" || hosts[1].What != FenceRefused {
			t.Errorf("%+v", hosts)
		}
	})
}

// What browsers ask for by themselves is marked, is listed behind what a page misses however late it comes, and leaves room
// among the events for that.
func TestWhatBrowsersAskForByThemselvesIsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(slog.New(slog.DiscardHandler))
		var told []Event
		ctx, cancel := context.WithCancel(t.Context())
		go e.Watch(ctx, nil, func(event Event) error { //nolint:errcheck // it ends with ctx
			told = append(told, event)
			return nil
		})
		synctest.Wait()
		ask := func(host string) {
			e.Denied(Denial{VM: "social", IP: vmA, Host: host, Reason: ReasonList})
		}
		ask("cdn.example")
		for i := range DeniedHostsMax / 2 {
			time.Sleep(time.Millisecond)
			ask(fmt.Sprintf("a%d.services.mozilla.com", i))
		}
		ask("detectportal.firefox.com.example") // not below the name
		ask("shop.example")
		synctest.Wait()
		cancel()
		synctest.Wait()

		hosts, forgotten := e.DeniedTo(vmA, time.Time{})
		if len(hosts) != DeniedHostsMax/2+3 || forgotten != 0 {
			t.Errorf("%d hosts, %d forgotten", len(hosts), forgotten)
		}
		var first []string
		for i, h := range hosts {
			if i < 3 {
				first = append(first, h.Host)
			}
			if marked := h.Browser != ""; marked != (i >= 3) {
				t.Errorf("place %d: %+v", i, h)
			}
		}
		if got := strings.Join(first, " "); got != "shop.example detectportal.firefox.com.example cdn.example" {
			t.Error(got)
		}
		marked := 0
		pages := map[string]bool{}
		for _, event := range told[1:] { // after that it watches
			if event.Browser != "" {
				marked++
			} else {
				pages[event.Host] = true
			}
		}
		if marked == 0 || marked > deniedBurst-deniedReserve || len(pages) != 3 {
			t.Errorf("events of %d marked hosts and of %v", marked, pages)
		}
	})
}

// countingHandler counts lines, and the refusals that they tell of.
type countingHandler struct {
	lines, shown, notShown int
	slog.Handler           // its other methods are not called
}

func (h *countingHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *countingHandler) Handle(_ context.Context, r slog.Record) error {
	h.lines++
	h.shown++
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "not_shown" {
			h.notShown += int(a.Value.Int64())
		}
		return true
	})
	return nil
}
