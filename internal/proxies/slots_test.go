package proxies

import (
	"net/netip"
	"testing"
	"time"
)

// TestSlots: a proxy is full if the same clients hold its slots at all looks of a minute, while others wait.
func TestSlots(t *testing.T) {
	clients := func(ports ...uint16) (all []netip.AddrPort) {
		for _, port := range ports {
			all = append(all, netip.AddrPortFrom(netip.MustParseAddr("10.137.0.9"), port))
		}
		return all
	}
	now := time.Now()
	type look struct {
		after time.Duration
		by    []netip.AddrPort
		full  bool
	}
	for name, looks := range map[string][]look{
		"held":          {{0, clients(1, 2), false}, {HeldTime - 1, clients(1, 2), false}, {HeldTime, clients(1, 2), true}, {2*HeldTime - 1, clients(1, 2), false}},
		"nobody waits":  {{0, clients(1, 2), false}, {HeldTime / 2, nil, false}, {HeldTime, clients(1, 2), false}},
		"somebody came": {{0, clients(1, 2), false}, {HeldTime / 2, clients(1, 3), false}, {HeldTime, clients(1, 3), false}, {HeldTime * 3 / 2, clients(1, 3), true}},
	} {
		slots := Slots{}
		for _, l := range looks {
			if full := slots.Note(1, l.by, now.Add(l.after)); full != l.full {
				t.Errorf("%s, after %v: full is %t", name, l.after, full)
			}
		}
	}

	slots := Slots{}
	slots.Note(1, clients(1), now)
	slots.Note(2, clients(1), now)
	slots.Keep(func(id int) bool { return id == 2 })
	if slots.Note(1, clients(1), now.Add(HeldTime)) || !slots.Note(2, clients(1), now.Add(HeldTime)) {
		t.Error("it does not forget those that serve no more, and these alone")
	}
}
