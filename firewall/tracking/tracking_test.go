package tracking

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	. "vifproxy/firewall/firewalltest"
)

// track has connection tracking at work in a new network namespace, where it keeps what is sent by UDP for a second.
func track(t *testing.T) {
	t.Helper()
	EnterNamespace(t)
	Run(t, "table ip tracked { chain out { type filter hook output priority 0; ct state new accept; }; }", "nft", "-f", "-")
	Must(t, os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", []byte("1"), 0))
}

func trackAtMost(n int) (restore func()) {
	before := Places
	Places = func() int { return n }
	return func() { Places = before }
}

// TestExpiredConnectionsAreEvicted: the kernel alone would count them for a minute.
func TestExpiredConnectionsAreEvicted(t *testing.T) {
	defer trackAtMost(64)()
	track(t)
	for range 20 {
		conn, err := net.Dial("udp", "127.0.0.1:9")
		Must(t, err)
		_, err = conn.Write([]byte("x"))
		Must(t, err)
		Must(t, conn.Close())
	}
	count := func() int {
		n, _, err := stats()
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

// TestStats: netlink says what /proc/sys says, which the unit hides.
func TestStats(t *testing.T) {
	track(t)
	entries, places, err := stats()
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
