package pins

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vifproxy/firewall"
)

const first = 0x70000000 // uid

func numbered(uid uint32, from, count int) (all []firewall.Pin) {
	for i := from; i < from+count; i++ {
		all = append(all, firewall.Pin{UID: uid, Addr: netip.AddrFrom4([4]byte{93, byte(i >> 16), byte(i >> 8), byte(i)})})
	}
	return all
}

// A filter takes out what has ended, by a clock that is a little behind. Like the kernel's it fails as a whole.
type filter map[firewall.Pin]time.Duration

func (f filter) tell(t *testing.T, p Plan, now time.Duration) {
	t.Helper()
	for pin, end := range f {
		if end <= now {
			delete(f, pin)
		}
	}
	for _, pin := range p.Out {
		if _, there := f[pin]; !there {
			t.Fatalf("%v is taken out, and is not there", pin)
		}
		delete(f, pin)
	}
	for i, pin := range p.In {
		if _, there := f[pin]; there {
			t.Fatalf("%v is put in, and is there", pin)
		}
		f[pin] = now + p.Lasting[i]
	}
}

// Whatever comes in whatever order, the filter is never told to take out what is not there, nor to put in what is; what was pinned is there
// for the whole time, unless it was taken out or was too much.
func TestAnyHistory(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		b, f, now := New(), filter{}, time.Duration(0)
		for range 400 {
			now += time.Duration(random.IntN(400)) * time.Millisecond
			uid := uint32(first + random.IntN(3))
			some := numbered(uid, random.IntN(20), 1+random.IntN(5))
			lasting := lastingMin + time.Duration(random.IntN(3000))*time.Millisecond
			act := random.IntN(10)
			var p Plan
			for p.Wait = 1; p.Wait > 0; now += p.Wait {
				switch act {
				case 0:
					p = b.Unpin(some, now)
				case 1:
					p = b.UnpinAll(uid, now)
				default:
					p = b.Pin(some, lasting, now)
				}
				if p.Wait > 2*doubt+50*time.Millisecond {
					t.Fatalf("to wait %v", p.Wait)
				}
			}
			before := now
			now += time.Duration(random.IntN(20)) * time.Millisecond
			f.tell(t, p, now)
			now += time.Duration(random.IntN(20)) * time.Millisecond
			b.Done(p, before, now)
			for _, pin := range some {
				end, there := f[pin]
				if open := there && end > now; open && act == 0 || act > 1 && (!open || end < before+lasting) {
					t.Fatalf("%d: after %d, %v is there until %v; it is %v", seed, act, pin, end, now)
				}
				if act == 1 && there && end > now {
					t.Fatalf("%v is still there", pin)
				}
			}
			var held []Held
			for pin, end := range f {
				if end > now {
					held = append(held, Held{pin, end - now})
				}
			}
			if p := b.Restore(held, now, now); !p.Empty() {
				t.Fatalf("to be restored: %+v", p)
			}
		}
	}
}

// TestBounds: of a proxy, and of all. The pins that would end first go.
func TestBounds(t *testing.T) {
	b := New()
	pin := func(lasting time.Duration, all []firewall.Pin) (out []firewall.Pin) {
		p := b.Pin(all, lasting, 0)
		if len(p.In) != len(all) || p.Wait > 0 {
			t.Fatalf("%d of %d go in, wait %v", len(p.In), len(all), p.Wait)
		}
		b.Done(p, 0, 0)
		return p.Out
	}
	pin(2*time.Minute, numbered(first, 0, 10))
	pin(time.Minute, numbered(first, 10, 10))
	out := pin(time.Hour, numbered(first, 1000, perProxy-15))
	if len(out) != 5 || slices.ContainsFunc(out, func(p firewall.Pin) bool { return !slices.Contains(numbered(first, 10, 10), p) }) {
		t.Errorf("%v go", out)
	}
	for i := range totalMax/perProxy - 1 {
		if out := pin(time.Hour, numbered(first+1+uint32(i), 0, perProxy)); len(out) > 0 {
			t.Errorf("%d go", len(out))
		}
	}
	if out := pin(2*time.Hour, numbered(first+1, 1000, 2*perProxy)); len(out) != perProxy || b.Len() != totalMax+perProxy {
		t.Errorf("%d go when one call pins too many; %d are pinned", len(out), b.Len())
	}
	if out := pin(2*time.Hour, numbered(first+1, 0, 1)); len(out) != perProxy+1 {
		t.Errorf("%d go after that", len(out))
	}
	if b.Len() != totalMax {
		t.Fatalf("%d are pinned", b.Len())
	}
	const newcomer = first + 1000
	if out := pin(time.Minute, numbered(newcomer, 0, 5)); len(out) != 5 || out[0].UID == newcomer || b.Len() != totalMax {
		t.Errorf("%v go for a newcomer; %d are left", out, b.Len())
	}
	if p := b.UnpinAll(newcomer, 0); len(p.Out) != 5 {
		t.Errorf("%d are left to the newcomer", len(p.Out))
	}
	b.sweep(nil, 3*time.Hour)
	if b.Len() != 0 || len(b.leases) != 0 {
		t.Errorf("%d are remembered when all have ended", b.Len())
	}
}

func TestFailed(t *testing.T) {
	b := New()
	all := numbered(first, 0, 4)
	b.Done(b.Pin(all, time.Minute, 0), 0, 0)
	b.Failed(b.Unpin(all[:2], 0))                // they must not come back
	b.Failed(b.Pin(all[2:3], time.Hour, 0))      // it had a minute before
	b.Failed(b.Pin(numbered(first, 9, 1), 2, 0)) // nobody relies on it
	p := b.Restore([]Held{{all[0], time.Minute}, {all[2], time.Hour}}, 0, 0)
	if slices.SortFunc(p.Out, func(a, b firewall.Pin) int { return a.Addr.Compare(b.Addr) }); !slices.Equal(p.Out, []firewall.Pin{all[0], all[2]}) {
		t.Errorf("%v go", p.Out)
	}
	if slices.SortFunc(p.In, func(a, b firewall.Pin) int { return a.Addr.Compare(b.Addr) }); !slices.Equal(p.In, all[2:]) || p.Lasting[0] != time.Minute {
		t.Errorf("%v come, for %v", p.In, p.Lasting)
	}
}
