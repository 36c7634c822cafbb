package resolvconf

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// resolver returns one of many addresses.
func resolver(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 139, 1, n}) }

func TestMemory(t *testing.T) {
	var m Memory
	now := time.Now()
	if open := m.Open(now); len(open) != 0 || !m.Next().IsZero() {
		t.Errorf("before the first reading: %v, until %v", open, m.Next())
	}
	for _, step := range []struct {
		after  time.Duration
		listed []byte
		open   string
		next   time.Duration // from the last step; 0 if there is nothing to close
	}{
		{0, []byte{1, 2}, "[10.139.1.1 10.139.1.2]", 0},
		{time.Hour, []byte{1, 2}, "[10.139.1.1 10.139.1.2]", 0},
		{time.Hour, []byte{2}, "[10.139.1.2 10.139.1.1]", formerFor},
		{time.Second, []byte{2}, "[10.139.1.2 10.139.1.1]", formerFor - time.Second}, // since the file had it, not since it was read
		{time.Second, []byte{3}, "[10.139.1.3 10.139.1.1 10.139.1.2]", formerFor - 2*time.Second},
		{formerFor - 2*time.Second, []byte{3}, "[10.139.1.3 10.139.1.2]", 2 * time.Second},
		{time.Second, []byte{2}, "[10.139.1.2 10.139.1.3]", formerFor}, // one that comes back is no former one
		{formerFor, []byte{2}, "[10.139.1.2]", 0},
		{time.Second, []byte{5, 6, 7, 8, 5}, "[10.139.1.5 10.139.1.6 10.139.1.7 10.139.1.8 10.139.1.5 10.139.1.2]", formerFor},
		{time.Second, []byte{9}, "[10.139.1.9 10.139.1.2 10.139.1.5 10.139.1.6 10.139.1.7]", formerFor - time.Second}, // nobody asked a fourth
	} {
		now = now.Add(step.after)
		var listed []netip.Addr
		for _, n := range step.listed {
			listed = append(listed, resolver(n))
		}
		m.Listed(listed, now)
		if open := fmt.Sprint(m.Open(now)); open != step.open {
			t.Errorf("%v: open are %s, want %s", step.listed, open, step.open)
		}
		var next time.Time
		if step.next > 0 {
			next = now.Add(step.next)
		}
		if !m.Next().Equal(next) {
			t.Errorf("%v: the next is closed after %v, want %v", step.listed, m.Next().Sub(now), step.next)
		}
	}
	// Although nobody has read the file meanwhile.
	if open := fmt.Sprint(m.Open(now.Add(formerFor))); open != "[10.139.1.9]" {
		t.Errorf("open are %s after their end", open)
	}
}

// However often resolv.conf changes, what is open is bounded, and the latest stay.
func TestMemoryIsBounded(t *testing.T) {
	var m Memory
	now := time.Now()
	for n := range byte(200) {
		now = now.Add(time.Second)
		m.Listed([]netip.Addr{resolver(n)}, now)
		m.Listed([]netip.Addr{resolver(n)}, now) // at once again
		if open := m.Open(now); len(open) > 1+formerMax || n > 0 && open[len(open)-1] != resolver(n-1) {
			t.Fatalf("after %d changes, open are %v", n, open)
		}
	}
}
