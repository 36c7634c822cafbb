package supervisor

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/events"
	"vifproxy/internal/explain"
)

// One AppVM does not keep others from learning what became of their connections, and what is over leaves nothing behind.
func TestExaminationsAreBounded(t *testing.T) {
	s := New(Config{
		Names: Names{
			LookUp: func(context.Context, string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr("10.1.2.3")}, nil
			},
		},
		Connections: Connections{
			Attempts: func(uint32, uint16) ([]firewall.Attempt, error) { return nil, nil },
		},
		Events: events.New(slog.New(slog.DiscardHandler)),
	})
	begun := 0
	for range explain.LooksEach + 1 {
		if s.examine(events.Denial{VM: "loud", IP: vmA, Host: "lan.example"}) {
			begun++
		}
	}
	if begun != explain.LooksEach {
		t.Errorf("%d examinations for one AppVM", begun)
	}
	for i := range byte(2 * explain.LooksMax) {
		if s.examine(events.Denial{VM: "other", IP: netip.AddrFrom4([4]byte{10, 137, 1, i}), Host: "lan.example"}) {
			begun++
		}
	}
	if begun != explain.LooksMax {
		t.Errorf("%d examinations at once", begun)
	}
	l := newLoop(t.Context(), s.config, s.mail)
	for _, letter := range s.mail.Letters() { // as the loop does
		letter(l)
	}
	l.running.Wait()
	if !s.looks.None() {
		t.Error("examinations are left")
	}
	hosts, _ := s.config.Events.DeniedTo(vmA, time.Time{})
	if len(hosts) != 1 || hosts[0].Count != explain.LooksEach || hosts[0].What != events.FenceRefused {
		t.Errorf("denied has %+v", hosts)
	}
}
