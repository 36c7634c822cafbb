package supervisor

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/events"
)

var vmA = netip.MustParseAddr("10.137.0.1")

func TestDenied(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.file("work.10.137.0.2", "w")
		m.after(time.Second)
		began := time.Now()
		for _, host := range []string{"old.example", "new.example", "old.example"} {
			m.config.Events.Denied(events.Denial{VM: "social", IP: vmA, Host: host})
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
		if hosts, _ := m.config.Events.DeniedTo(vmA, time.Time{}); len(hosts) != 0 {
			t.Error("the list stays when the rule file has gone")
		}
	})
}

// TestNamesOfAppVMsFitIntoAnAnswer however many AppVMs choose them, and however long JSON makes them.
func TestNamesOfAppVMsFitIntoAnAnswer(t *testing.T) {
	var all []events.Denied
	for range 250 {
		d := events.Denied{VM: "x"}
		for range events.DeniedHostsMax {
			d.Hosts = append(d.Hosts, events.DeniedHost{Host: strings.Repeat("<", 255), Count: 2})
		}
		all = append(all, d)
	}
	events.Bound(all)
	text, err := json.Marshal(all)
	if err != nil || len(text) > 9<<20 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if d := all[249]; len(d.Hosts) == 0 || len(d.Hosts)*2+d.Forgotten != 2*events.DeniedHostsMax {
		t.Errorf("%d hosts, %d forgotten", len(d.Hosts), d.Forgotten)
	}
	few := []events.Denied{{Hosts: all[0].Hosts}}
	if events.Bound(few); few[0].Forgotten != 0 {
		t.Error("one AppVM's are cut")
	}
}
