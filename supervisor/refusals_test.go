package supervisor

import (
	"context"
	"encoding/json"
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

	"vifproxy/control"
	"vifproxy/tinyproxy"
)

var (
	vmA = netip.MustParseAddr("10.137.0.1")
	vmB = netip.MustParseAddr("10.137.0.2")
)

// FuzzRefusals compares the list of one AppVM with a plain record of everything, refused at random.
func FuzzRefusals(f *testing.F) {
	f.Add(uint64(1), uint(3), uint(100))
	f.Add(uint64(2), uint(deniedHosts), uint(1000))
	f.Add(uint64(3), uint(deniedHosts+1), uint(2000))
	f.Add(uint64(4), uint(5000), uint(3000))
	f.Fuzz(func(t *testing.T, seed uint64, names, refusals uint) {
		names, refusals = names%10000+1, refusals%5000
		random := rand.New(rand.NewPCG(seed, 0))
		now := time.Unix(1e9, 0)
		var all []string // in order
		var times []time.Time
		list := NewEvents(slog.New(slog.DiscardHandler)).refusals.of(vmA)
		for range refusals {
			now = now.Add(time.Duration(random.IntN(3)) * time.Second)
			host := fmt.Sprint(random.UintN(names))
			all, times = append(all, host), append(times, now)
			list.add(control.DeniedHost{Host: host}, now)
		}
		got := list.since(time.Time{})
		if len(got) > deniedHosts || len(got) != len(list.hosts) {
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
		for i := len(all) - 1; i >= 0 && len(newest) < deniedHosts; i-- {
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
		want := slices.DeleteFunc(slices.Clone(got), func(h control.DeniedHost) bool { return h.Last.Before(since) })
		if !slices.Equal(recent, want) {
			t.Errorf("since %v: %v, want %v", since, recent, want)
		}
	})
}

// TestOneAppVMCannotFloodAnother lets one AppVM be refused a hundred thousand names, each as long as can be.
func TestOneAppVMCannotFloodAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log countingHandler
		e := NewEvents(slog.New(&log))
		e.Denied(tinyproxy.Denied{VM: "quiet", Addr: vmB, Host: "shop.example"})
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		const requests = 100_000
		for i := range requests {
			e.Denied(tinyproxy.Denied{VM: "loud", Addr: vmA, Host: fmt.Sprintf("%01020d", i)})
			if i%100 == 0 {
				time.Sleep(time.Second)
			}
		}
		if grown := int64(heap()) - int64(before); grown > 1<<20 {
			t.Errorf("the heap has grown by %d bytes", grown)
		}
		hosts, forgotten := e.denied(vmA, time.Time{})
		if len(hosts) != deniedHosts || forgotten != requests-deniedHosts {
			t.Errorf("%d hosts, %d forgotten", len(hosts), forgotten)
		}
		if hosts, _ := e.denied(vmB, time.Time{}); len(hosts) != 1 || hosts[0].Host != "shop.example" {
			t.Errorf("the other one's list: %v", hosts)
		}
		if most := requests/100 + refusedBurst + 2; log.lines > most || log.lines < requests/100 {
			t.Errorf("%d lines in the log, at most %d", log.lines, most)
		}
		time.Sleep(time.Hour)
		e.Denied(tinyproxy.Denied{VM: "loud", Addr: vmA, Host: "last"})
		if log.shown+log.notShown != requests+2 {
			t.Errorf("the log tells of %d refusals and of %d that are not shown", log.shown, log.notShown)
		}
		e.forget(map[netip.Addr]*Desired{vmB: {}})
		if hosts, _ := e.denied(vmA, time.Time{}); len(hosts) != 0 || len(e.refusals) != 1 {
			t.Errorf("after its rule file has gone: %v", hosts)
		}
	})
}

// What browsers ask for by themselves is marked, is listed behind what a page misses however late it comes, and leaves room
// among the events for that.
func TestWhatBrowsersAskForByThemselvesIsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := NewEvents(slog.New(slog.DiscardHandler))
		var told []control.Event
		ctx, cancel := context.WithCancel(t.Context())
		go e.Watch(ctx, nil, func(event control.Event) error { //nolint:errcheck // it ends with ctx
			told = append(told, event)
			return nil
		})
		synctest.Wait()
		ask := func(host string) {
			e.Denied(tinyproxy.Denied{VM: "social", Addr: vmA, Host: host, Reason: tinyproxy.List})
		}
		ask("cdn.example")
		for i := range deniedHosts / 2 {
			time.Sleep(time.Millisecond)
			ask(fmt.Sprintf("a%d.services.mozilla.com", i))
		}
		ask("detectportal.firefox.com.example") // not below the name
		ask("shop.example")
		synctest.Wait()
		cancel()
		synctest.Wait()

		hosts, forgotten := e.denied(vmA, time.Time{})
		if len(hosts) != deniedHosts/2+3 || forgotten != 0 {
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
		if marked == 0 || marked > refusedBurst-refusedKept || len(pages) != 3 {
			t.Errorf("events of %d marked hosts and of %v", marked, pages)
		}
	})
}

func TestDenied(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.file("work.10.137.0.2", "w")
		m.after(time.Second)
		began := time.Now()
		for _, host := range []string{"old.example", "new.example", "old.example"} {
			m.Events.Denied(tinyproxy.Denied{VM: "social", Addr: vmA, Host: host})
			time.Sleep(time.Minute)
		}
		show := func(names []string, since time.Time) string {
			t.Helper()
			all, err := m.Denied(m.ctx, names, since)
			if err != nil {
				return err.Error()
			}
			var b strings.Builder
			for _, vm := range all {
				fmt.Fprintf(&b, "%s %s:", vm.VM, vm.IP)
				for _, h := range vm.Hosts {
					fmt.Fprintf(&b, " %s %d %s-%s", h.Host, h.Count, h.First.Sub(began), h.Last.Sub(began))
				}
				b.WriteString("\n")
			}
			return b.String()
		}
		const social = "social 10.137.0.1: old.example 2 0s-2m0s new.example 1 1m0s-1m0s\n"
		if got := show(nil, time.Time{}); got != social+"work 10.137.0.2:\n" {
			t.Error(got)
		}
		if got := show([]string{"social"}, time.Time{}); got != social {
			t.Error(got)
		}
		if got := show([]string{"social"}, began.Add(90*time.Second)); got != "social 10.137.0.1: old.example 2 0s-2m0s\n" {
			t.Error(got)
		}
		if got := show([]string{"nobody"}, time.Time{}); got != `no rule file for "nobody": there are "social", "work"` {
			t.Error(got)
		}
		m.file("play.10.137.0.1", "a") // another name for the same AppVM
		m.remove("social.10.137.0.1")
		m.after(time.Second)
		if got := show([]string{"play"}, time.Time{}); !strings.HasPrefix(got, "play 10.137.0.1: old.example 2 ") {
			t.Error(got)
		}
		m.remove("play.10.137.0.1")
		m.after(time.Second)
		if len(m.Events.refusals) != 0 {
			t.Error("the list stays when the rule file has gone")
		}
	})
}

// TestNamesOfAppVMsFitIntoAnAnswer however many AppVMs choose them, and however long JSON makes them.
func TestNamesOfAppVMsFitIntoAnAnswer(t *testing.T) {
	var all []control.Denied
	for range 250 {
		d := control.Denied{VM: "x"}
		for range deniedHosts {
			d.Hosts = append(d.Hosts, control.DeniedHost{Host: strings.Repeat("<", 255), Count: 2})
		}
		all = append(all, d)
	}
	bounded(all)
	text, err := json.Marshal(all)
	if err != nil || len(text) > 9<<20 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if d := all[249]; len(d.Hosts) == 0 || len(d.Hosts)*2+d.Forgotten != 2*deniedHosts {
		t.Errorf("%d hosts, %d forgotten", len(d.Hosts), d.Forgotten)
	}
	few := []control.Denied{{Hosts: all[0].Hosts}}
	if bounded(few); few[0].Forgotten != 0 {
		t.Error("one AppVM's are cut")
	}
}
