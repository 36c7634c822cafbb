package callers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
)

// fakeVerbs has some lists, and events for those who watch.
type fakeVerbs struct {
	control.Verbs
	mu     sync.Mutex
	vms    []control.VM
	events []events.Event
}

func (f *fakeVerbs) AppVMs(context.Context) (control.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return control.Status{VMs: append([]control.VM{}, f.vms...), Setup: control.Setup{RulesDir: "/rules"}, Problems: []string{"secret"}}, nil
}

// Watch sends all events, whatever the names are, and ends.
func (f *fakeVerbs) Watch(_ context.Context, _ []string, send func(events.Event) error) error {
	for _, e := range append([]events.Event{{Event: events.Watching}}, f.events...) {
		if e.What == "another list" {
			f.mu.Lock()
			f.vms = append(f.vms, control.VM{Name: e.VM, IP: e.IP.String(), Origin: control.InRange})
			f.mu.Unlock()
		}
		if err := send(e); err != nil {
			return err
		}
	}
	return errors.New("no more events")
}

func list(name, ip, origin string) control.VM { return control.VM{Name: name, IP: ip, Origin: origin} }

var lists = []control.VM{
	list("bank", "10.137.0.11", control.InFile), list("work", "10.137.0.12", control.InDom0), list("twin", "10.137.0.13", control.InFile),
	list("twin", "10.137.0.14", control.InDom0), list("disp-10.138.0.5", "10.138.0.5", control.InRange),
	list("vm-10.137.0.15", "10.137.0.15", control.InFirewall), list("nowhere", "", control.InFile),
}

func TestACallerHasItsOwnList(t *testing.T) {
	d := New(&fakeVerbs{vms: lists}, slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		name  string
		fault control.Fault
	}{
		{"bank", -1}, {"work", -1}, {"twin", control.Conflict}, {"disp-10.138.0.5", control.Unknown}, {"vm-10.137.0.15", control.Unknown},
		{"nowhere", control.Unknown}, {"nobody", control.Unknown}, {"Bank", control.Unknown}, {"", control.Unknown},
	} {
		status, err := d.Caller(t.Context(), c.name)
		var said *control.DaemonError
		switch {
		case errors.As(err, &said):
			if said.Fault != c.fault || len(status.VMs) > 0 || strings.Contains(said.Message, "bank") {
				t.Errorf("%q: %v, %d lists", c.name, err, len(status.VMs))
			}
		case err != nil || c.fault >= 0 || len(status.VMs) != 1 || status.VMs[0].Name != c.name || status.Problems != nil:
			t.Errorf("%q: %v, %d lists", c.name, err, len(status.VMs))
		}
	}
}

// A caller learns its own refusals, in words that a list has, and nothing else.
func TestRefusals(t *testing.T) {
	at := time.Date(2026, 11, 30, 1, 2, 3, 456789, time.FixedZone("far away", 3600))
	event := func(vm, ip, host string, port uint16, reason events.Reason) events.Event {
		return events.Event{Time: at, Event: "refused", About: events.About{VM: vm, IP: netip.MustParseAddr(ip), Host: host, Port: port, Reason: reason,
			Why: "secret", What: "secret"}}
	}
	f := &fakeVerbs{vms: lists, events: []events.Event{
		event("bank", "10.137.0.11", "CDN.Shop.example.", 443, events.ReasonList),
		event("work", "10.137.0.12", "other.example", 443, events.ReasonList),
		event("bank", "10.137.0.11", "git.example", 8443, events.ReasonPort),
		event("bank", "10.137.0.11", "failed.example", 443, events.ReasonConnect),
		event("bank", "10.137.0.11", "", 443, events.ReasonPort),
		{Event: "barred", About: events.About{Host: "secret.example"}},
		event("bank", "10.137.0.11", `\x1b`, 443, events.ReasonList),
		{Event: "rules-found", About: events.About{VM: "bank", IP: netip.MustParseAddr("10.137.0.11")}},
		event("bank", "10.137.0.11", "last.example", 443, events.ReasonList),
		{Event: "connected", About: events.About{VM: "bank", IP: netip.MustParseAddr("10.138.0.9"), What: "another list"}},
		event("bank", "10.138.0.9", "after.example", 443, events.ReasonList),
	}}
	d := New(f, slog.New(slog.DiscardHandler))
	var got []string
	err := d.Refusals(t.Context(), "bank", func(r control.Refusal) error {
		got = append(got, fmt.Sprintf("%s %d %s %s", r.Host, r.Port, r.Reason, r.Site))
		if r.Host != "" && r.Time.Format(time.RFC3339Nano) != "2026-11-30T00:02:03Z" {
			t.Errorf("told at %v", r.Time)
		}
		return nil
	})
	want := " 0  |cdn.shop.example 443 list shop.example|git.example 8443 port git.example|\\x1b 443 list \\x1b|last.example 443 list last.example"
	if strings.Join(got, "|") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "|"), want)
	}
	if said := (*control.DaemonError)(nil); !errors.As(err, &said) || said.Fault != control.Conflict {
		t.Errorf("when another list has the name: %v", err)
	}
	if err := d.Refusals(t.Context(), "nobody", nil); err == nil {
		t.Error("a stranger is told")
	}
	for name, c := range d.callers {
		if c.streams != 0 {
			t.Errorf("%s has %d streams", name, c.streams)
		}
	}
}

// Ten thousand calls get as many answers as their time allows, and one line of the log.
func TestACallerGetsItsShare(t *testing.T) {
	var log bytes.Buffer
	d := New(&fakeVerbs{}, slog.New(slog.NewTextHandler(&log, nil)))
	now := time.Now()
	answered := 0
	for i := range 10000 {
		if d.admit("flood", 0, now.Add(time.Duration(i)*10*time.Millisecond)) == nil {
			answered++
		}
	}
	if most := callsAtOnce + int(100*time.Second/callInterval); answered > most || answered < most-1 {
		t.Errorf("%d calls are answered, want %d", answered, most)
	}
	if lines := strings.Count(log.String(), "\n"); lines != 1 {
		t.Errorf("the log has\n%s", log.String())
	}
	if err := d.admit("other", 0, now); err != nil {
		t.Errorf("another caller: %v", err)
	}
	for range streamsMax {
		if err := d.admit("other", 1, now); err != nil {
			t.Errorf("a stream: %v", err)
		}
	}
	if d.admit("other", 1, now) == nil {
		t.Error("a stream too many")
	}
	d.leave("other")
	if err := d.admit("other", 1, now); err != nil {
		t.Errorf("a stream after another one has ended: %v", err)
	}
	later := now.Add(complaintAfter + 100*time.Second)
	for range 2 * callsAtOnce {
		d.admit("flood", 0, later) //nolint:errcheck // half of them
	}
	if lines := strings.Count(log.String(), "\n"); lines != 2+1 || !strings.Contains(log.String(), "vm=flood") { // the streams made one
		t.Errorf("after an hour the log has\n%s", log.String())
	}
}

// There are never more callers in memory than the bound, and quiet ones make room.
func TestCallersAreForgotten(t *testing.T) {
	d := New(&fakeVerbs{}, slog.New(slog.DiscardHandler))
	now := time.Now()
	for i := range remembered {
		if err := d.admit(fmt.Sprint("disp", i), 0, now); err != nil {
			t.Fatal(err)
		}
	}
	if d.admit("more", 0, now) == nil {
		t.Error("more callers than the bound")
	}
	if err := d.admit("more", 0, now.Add(callInterval)); err != nil || len(d.callers) != 1 {
		t.Errorf("when all are quiet: %v, %d callers", err, len(d.callers))
	}
}
