package nft

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

// TestExpiredConnectionsAreEvicted: the kernel alone would count them for a minute.
func TestExpiredConnectionsAreEvicted(t *testing.T) {
	defer trackAtMost(64)()
	EnterNamespace(t)
	Attach(t, "uplink", Internet, "192.0.2.1", 1).Do(func() error { Listen(t, Internet+":80", "web"); return nil })
	Sync(t, open(t, Machines[1]), firewall.State{Fence: firewall.Fence{Proxies: Everywhere(PersonalUID)}})
	for range 20 {
		if who := Answer(t, PersonalUID, Internet+":80"); who != "web" {
			t.Fatal(who)
		}
	}
	count := func() int {
		n, _, err := trackingStats()
		Must(t, err)
		return n
	}
	if n := count(); n < 20 {
		t.Fatalf("%d are tracked: this shows nothing", n)
	}
	for end := time.Now().Add(10 * time.Second); count() > 64/evictShare; time.Sleep(100 * time.Millisecond) {
		if did, _, err := evictIfMany(); !did || err != nil || time.Now().After(end) {
			t.Fatalf("%d are still tracked; evicted: %t, %v", count(), did, err)
		}
	}
	if did, _, err := evictIfMany(); did || err != nil {
		t.Errorf("with %d tracked, it looks for expired ones: %t, %v", count(), did, err)
	}
	for most, want := range map[int]bool{64: count() == 0, emptyShare * count(): false, emptyShare*count() + 1: true} {
		back := trackAtMost(most)
		if did, next, err := evictIfMany(); did || (next == emptyInterval) != want || err != nil {
			t.Errorf("with %d tracked of %d, the next look is in %v; %v, %v", count(), most, next, did, err)
		}
		back()
	}
}

// TestTrackingStats: netlink says what /proc/sys says, which the unit hides.
func TestTrackingStats(t *testing.T) {
	EnterNamespace(t)
	Sync(t, open(t, Machines[1]), firewall.State{})
	entries, places, err := trackingStats()
	said := strings.TrimSpace(Run(t, "", "cat", "/proc/sys/net/netfilter/nf_conntrack_max"))
	if err != nil || entries != 0 || fmt.Sprint(places) != said {
		t.Errorf("%d entries, %d places, %v; /proc/sys says %s", entries, places, err, said)
	}
}

func BenchmarkEvictExpired(b *testing.B) {
	for b.Loop() {
		if err := evictExpired(); err != nil {
			b.Fatal(err)
		}
	}
}
