package process

import (
	"net/netip"
	"testing"
	"time"
)

// A proxy stands still only if one client waits at all looks for long enough.
func TestStill(t *testing.T) {
	clients := func(ports ...uint16) (all []netip.AddrPort) {
		for _, port := range ports {
			all = append(all, netip.AddrPortFrom(netip.MustParseAddr("10.137.0.9"), port))
		}
		return all
	}
	type look struct {
		after   time.Duration
		waiting []netip.AddrPort
		stands  bool
	}
	now := time.Now()
	for name, looks := range map[string][]look{
		"one waits":         {{0, clients(1), false}, {stillTime / 2, clients(1, 2), false}, {stillTime, clients(3, 1), true}, {stillTime + 1, clients(1), true}},
		"one after another": {{0, clients(1, 2), false}, {stillTime / 2, clients(2, 3), false}, {stillTime, clients(3, 4), false}, {2 * stillTime, clients(4), false}},
		"none at one look":  {{0, clients(1), false}, {stillTime / 2, nil, false}, {stillTime, clients(1), false}, {stillTime * 3 / 2, clients(1), false}},
		"nobody":            {{0, nil, false}, {stillTime, nil, false}, {2 * stillTime, nil, false}, {3 * stillTime, nil, false}},
		"too few looks":     {{0, clients(1), false}, {2 * stillTime, clients(1), false}},
		"too little time":   {{0, clients(1), false}, {1, clients(1), false}, {2, clients(1), false}, {stillTime - 1, clients(1), false}},
	} {
		var s still
		for _, l := range looks {
			if stands := s.note(l.waiting, now.Add(l.after)); stands != l.stands {
				t.Errorf("%s, after %v: stands still is %t", name, l.after, stands)
			}
		}
	}
}
