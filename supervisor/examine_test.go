package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/events"
)

// examiner is a Supervisor that finds out what became of connections, in a world of values; routes are the kernel's.
func examiner(t *testing.T, attempts ...firewall.Attempt) *Supervisor {
	t.Helper()
	events := events.New(slog.New(slog.DiscardHandler))
	s := New(Config{
		Events: events,
		LookUp: func(_ context.Context, host string) ([]netip.Addr, error) {
			addrs := map[string]string{"lan.example": "10.1.2.3", "here.example": "127.0.0.1", "far.example": "198.51.100.1"}
			if addrs[host] == "" {
				return nil, errors.New("no such host")
			}
			return []netip.Addr{netip.MustParseAddr(addrs[host])}, nil
		},
		Attempts: func(uint32, uint16) ([]firewall.Attempt, error) {
			if attempts != nil && !attempts[0].To.IsValid() {
				return nil, errors.New("cannot list sockets")
			}
			return attempts, nil
		},
	})
	return s
}

// One AppVM does not keep others from learning what became of their connections, and what is over leaves nothing behind.
func TestExaminationsAreBounded(t *testing.T) {
	s := examiner(t)
	begun := 0
	for range examinedEach + 1 {
		if s.examine(events.Denial{VM: "loud", IP: vmA, Host: "lan.example"}) {
			begun++
		}
	}
	if begun != examinedEach {
		t.Errorf("%d examinations for one AppVM", begun)
	}
	for i := range byte(2 * examinedMax) {
		if s.examine(events.Denial{VM: "other", IP: netip.AddrFrom4([4]byte{10, 137, 1, i}), Host: "lan.example"}) {
			begun++
		}
	}
	if begun != examinedMax {
		t.Errorf("%d examinations at once", begun)
	}
	l := newLoop(t.Context(), s.Config, s.mail)
	for _, letter := range s.mail.Letters() { // as the loop does
		letter(l)
	}
	l.running.Wait()
	if s.examined.all != 0 || len(s.examined.by) != 0 {
		t.Errorf("%d examinations are left, of %v", s.examined.all, s.examined.by)
	}
	hosts, _ := s.Events.DeniedTo(vmA, time.Time{})
	if len(hosts) != 1 || hosts[0].Count != examinedEach || hosts[0].What != events.FenceRefused {
		t.Errorf("denied has %+v", hosts)
	}
}
