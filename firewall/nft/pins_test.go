package nft

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/pins"
)

func pin(uid uint32, addr string) firewall.Pin {
	return firewall.Pin{UID: uid, Addr: netip.MustParseAddr(addr)}
}

// numbered are so many addresses.
func numbered(uid uint32, from, count int) (all []firewall.Pin) {
	for i := from; i < from+count; i++ {
		all = append(all, firewall.Pin{UID: uid, Addr: netip.AddrFrom4([4]byte{93, byte(i >> 16), byte(i >> 8), byte(i)})})
	}
	return all
}

// holds compares what the kernel holds with what it should: the pins, and about how long each lives.
func holds(t *testing.T, b *Backend, want map[firewall.Pin]time.Duration) {
	t.Helper()
	held, err := b.conn.readPins()
	Must(t, err)
	for _, h := range held {
		if w, ok := want[h.Pin]; !ok || h.Left > w || h.Left < w-w/100-20*time.Second {
			t.Errorf("%v is pinned for %v, want %v", h.Pin, h.Left, w)
		}
	}
	for pin := range want {
		if !slices.ContainsFunc(held, func(h pins.Held) bool { return h.Pin == pin }) {
			t.Errorf("%v is not pinned", pin)
		}
	}
	if b.pins.Len() != len(held) {
		t.Errorf("%d are remembered, of %d", b.pins.Len(), len(held))
	}
}

func TestPins(t *testing.T) {
	EnterNamespace(t)
	Attach(t, "uplink", Internet, "192.0.2.1", 1).Do(func() error { Listen(t, Internet+":80", "web"); return nil })
	b := open(t, Machines[1])
	const hour = time.Hour
	one, other, six := pin(PersonalUID, Internet), pin(PersonalUID, "198.51.100.1"), pin(SocialUID, "2001:db8::1")
	expect := func(want bool) {
		t.Helper()
		if got := Opens(t, PersonalUID, Internet+":80", want); got != want {
			t.Errorf("opens: %t", got)
		}
	}
	expect(false)
	Must(t, b.Pin(t.Context(), []firewall.Pin{one, other, one, six}, time.Minute))
	holds(t, b, map[firewall.Pin]time.Duration{one: time.Minute, other: time.Minute, six: time.Minute})
	expect(true)
	if Opens(t, SocialUID, Internet+":80", false) {
		t.Error("a pin opens to somebody else")
	}

	// More time, but never less.
	Must(t, b.Pin(t.Context(), []firewall.Pin{one, six}, hour))
	Must(t, b.Pin(t.Context(), []firewall.Pin{one}, time.Minute))
	holds(t, b, map[firewall.Pin]time.Duration{one: hour, other: time.Minute, six: hour})

	Must(t, b.Unpin(t.Context(), []firewall.Pin{one, one, pin(SocialUID, Internet)}))
	expect(false)
	holds(t, b, map[firewall.Pin]time.Duration{other: time.Minute, six: hour})
	Must(t, b.Pin(t.Context(), []firewall.Pin{one}, hour))
	Must(t, b.UnpinAll(t.Context(), PersonalUID))
	holds(t, b, map[firewall.Pin]time.Duration{six: hour})

	// One that runs out, at any moment around its end.
	for i := range 12 {
		began := time.Now()
		Must(t, b.Pin(t.Context(), []firewall.Pin{one}, time.Second))
		if Opens(t, PersonalUID, Internet+":80", true) != true && time.Since(began) < time.Second {
			t.Error("a pin of a second does not open")
		}
		time.Sleep(time.Second + time.Duration(i-6)*30*time.Millisecond)
		Must(t, b.Pin(t.Context(), []firewall.Pin{one, other}, time.Duration(i+1)*time.Minute))
		expect(true)
		holds(t, b, map[firewall.Pin]time.Duration{one: time.Duration(i+1) * time.Minute, other: time.Duration(i+1) * time.Minute, six: hour})
		Must(t, b.UnpinAll(t.Context(), PersonalUID))
	}
	Must(t, b.Pin(t.Context(), []firewall.Pin{one}, time.Second))
	time.Sleep(1100 * time.Millisecond)
	expect(false)

	for want, bad := range map[string]func() error{
		"no proxy's": func() error { return b.Pin(t.Context(), []firewall.Pin{pin(NamesUID, Internet)}, hour) },
		"is no pub":  func() error { return b.Pin(t.Context(), []firewall.Pin{six, pin(PersonalUID, "10.0.0.1")}, hour) },
		"more than":  func() error { return b.Pin(t.Context(), numbered(PersonalUID, 0, 1<<16+1), hour) },
		"are possib": func() error { return b.Pin(t.Context(), []firewall.Pin{one}, hour+1) },
		"possible":   func() error { return b.Pin(t.Context(), []firewall.Pin{one}, time.Millisecond) },
	} {
		if err := bad(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

// TestManyPins: as many as there can be. They are there again when the tables have been deleted.
func TestManyPins(t *testing.T) {
	EnterNamespace(t)
	b := open(t, Machines[1])
	const proxies, each = 128, 512
	for i := range proxies {
		Must(t, b.Pin(t.Context(), numbered(PersonalUID+1+uint32(i), 0, each), time.Hour))
	}
	Must(t, b.Pin(t.Context(), numbered(PersonalUID, 0, each), time.Hour))
	complete := func() {
		t.Helper()
		for begin := time.Now(); ; { // an answer lacks some while the kernel's table grows
			held, err := b.conn.readPins()
			if Must(t, err); len(held) == proxies*each && b.pins.Len() == len(held) {
				return
			}
			if time.Since(begin) > 5*time.Second {
				t.Fatalf("%d are remembered, %d there, want %d", b.pins.Len(), len(held), proxies*each)
			}
		}
	}
	complete()
	Machines[1].Shell(t, "nft delete table inet vifproxy")
	Sync(t, b, firewall.State{})
	complete()
	Must(t, b.Remove(t.Context()))
	Sync(t, b, firewall.State{})
	holds(t, b, nil)
}

// TestPinsOutliveWhatOthersDo: whatever another program does, the next Sync puts in what is missing, and takes out what is not ours. A
// pin that comes before that waits for it, or does without.
func TestPinsOutliveWhatOthersDo(t *testing.T) {
	state := firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide(), Askers: Askers}
	const one, six = "93.0.0.1", "2001:db8::1"
	element := func(set, addr, more string) string {
		return fmt.Sprintf("element inet vifproxy %s '{ %d . %s %s }'", set, PersonalUID, addr, more)
	}
	for act, loaded := range map[string]bool{
		"nft add table ip other":                                                                            false,
		"nft delete " + element("pinned4", one, ""):                                                         false,
		"nft flush set inet vifproxy pinned4":                                                               false,
		"nft flush set inet vifproxy pinned6":                                                               false,
		"nft delete table inet vifproxy":                                                                    true,
		"nft flush ruleset":                                                                                 true,
		"nft add " + element("pinned4", "93.0.0.9", ""):                                                     false,
		"nft add " + element("pinned4", "93.0.0.9", "timeout 10h"):                                          false,
		"nft add " + element("pinned6", "2001:db8::9", "timeout 60s"):                                       false,
		"nft delete " + element("pinned4", one, "") + "; nft add " + element("pinned4", one, ""):            false,
		"nft delete " + element("pinned4", one, "") + "; nft add " + element("pinned4", one, "timeout 10s"): false,
		"nft add element inet vifproxy pinned4 '{ * }'":                                                     true,
		"nft flush chain inet vifproxy public":                                                              true,
	} {
		t.Run(strings.ReplaceAll(act, "/", ""), func(t *testing.T) {
			EnterNamespace(t)
			m := Machines[1]
			b := open(t, m)
			Sync(t, b, state)
			some := []firewall.Pin{pin(PersonalUID, one), pin(PersonalUID, six), pin(SocialUID, one)}
			Must(t, b.Pin(t.Context(), some, time.Hour))
			want := map[firewall.Pin]time.Duration{some[0]: time.Hour, some[1]: time.Hour, some[2]: time.Hour}
			good := m.Rules(t)
			m.Shell(t, act)
			before := m.Rules(t)
			began := time.Now()
			n := Sync(t, b, state)
			slow := time.Since(began) > 100*time.Millisecond // then pins end later than they should, and are put in again
			if (n == 0) != (act == "nft add table ip other") || loaded && n != 1 && !slow {
				t.Errorf("%d writes; %s", n, Diff(good, before))
			}
			holds(t, b, want)
			if n := Sync(t, b, state); n != 0 {
				t.Errorf("%d writes after that", n)
			}

			// And by a pin alone, if the set is still there.
			m.Shell(t, act)
			if !strings.Contains(act, "table inet") && !strings.Contains(act, "ruleset") && !strings.Contains(act, "*") {
				more := append(numbered(PersonalUID, 77, 1), some[0])
				Must(t, b.Pin(t.Context(), more, 30*time.Minute))
				Must(t, b.Pin(t.Context(), more, 59*time.Minute))
				want[more[0]] = 59 * time.Minute
			} else {
				takes := 100 * time.Millisecond // it waits in vain
				if strings.Contains(act, "*") {
					takes = time.Minute
				}
				ctx, cancel := context.WithTimeout(t.Context(), takes)
				defer cancel()
				if err := b.Pin(ctx, numbered(PersonalUID, 77, 1), time.Hour); (err == nil) == !strings.Contains(act, "*") {
					t.Errorf("error %v", err)
				} else if err == nil {
					want[numbered(PersonalUID, 77, 1)[0]] = time.Hour
				}
			}
			Sync(t, b, state)
			holds(t, b, want)
		})
	}
}

// TestUnpinTellsTheTruth: an Unpin that succeeds has left nothing open, also after one that failed before the kernel heard of it.
func TestUnpinTellsTheTruth(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	some := numbered(PersonalUID, 0, 3)
	for name, unpin := range map[string]func(b *Backend, ctx context.Context) error{
		"some": func(b *Backend, ctx context.Context) error { return b.Unpin(ctx, some) },
		"all":  func(b *Backend, ctx context.Context) error { return b.UnpinAll(ctx, PersonalUID) },
	} {
		t.Run(name, func(t *testing.T) {
			EnterNamespace(t)
			m := Machines[1]
			b := open(t, m)
			stays := pin(SocialUID, Internet)
			Must(t, b.Pin(t.Context(), append(some, stays), time.Hour))
			if err := unpin(b, ended); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			if err := unpin(b, ended); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v at the second try", err)
			}
			Must(t, unpin(b, t.Context()))
			holds(t, b, map[firewall.Pin]time.Duration{stays: time.Hour})

			// Nor does it say so where nobody can find out what is open.
			Must(t, b.Pin(t.Context(), some, time.Hour))
			if err := unpin(b, ended); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			m.Shell(t, "nft add element inet vifproxy pinned4 '{ * }'")
			if err := unpin(b, t.Context()); !errors.Is(err, errForAll) {
				t.Errorf("error %v where all is open", err)
			}
			Sync(t, b, firewall.State{})
			Must(t, unpin(b, t.Context()))
			holds(t, b, map[firewall.Pin]time.Duration{stays: time.Hour})
		})
	}
}

// TestUnpinnedIsNotRestored: what was to go is not put in again, although every try to take it out has failed.
func TestUnpinnedIsNotRestored(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, act := range []string{"true", "nft delete table inet vifproxy"} {
		EnterNamespace(t)
		m := Machines[1]
		b := open(t, m)
		some := numbered(PersonalUID, 0, 4)
		Must(t, b.Pin(t.Context(), some, time.Hour))
		for _, one := range some[1:] {
			if err := b.Unpin(ended, []firewall.Pin{one}); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		}
		m.Shell(t, act)
		Sync(t, b, firewall.State{})
		holds(t, b, map[firewall.Pin]time.Duration{some[0]: time.Hour})
	}
}

// TestPinThatIsThereHidesNothing: to put in a pin that is there changes nothing, so the kernel counts no generation. One change by another
// program after that is found.
func TestPinThatIsThereHidesNothing(t *testing.T) {
	EnterNamespace(t)
	m := Machines[1]
	b := open(t, m)
	state := firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide()}
	Sync(t, b, state)
	some := numbered(PersonalUID, 0, 1)
	Must(t, b.Pin(t.Context(), some, time.Hour))
	Sync(t, b, state)
	chain := func() string { return Run(t, "", "nft", "list", "chain", "inet", "vifproxy", "egress") }
	good := chain()
	made := b.conn.Made()
	Must(t, b.conn.beside(pins.Plan{In: some, Lasting: []time.Duration{time.Hour}}, 0))
	if n := b.conn.Made() - made; n != 0 {
		t.Errorf("%d generations are counted", n) // package ipt looks only if there are more than those
	}
	m.Shell(t, "nft insert rule inet vifproxy egress accept")
	Sync(t, b, state)
	if got := chain(); got != good {
		t.Errorf("not set right:\n%s", Diff(good, got))
	}
}

// TestPinsBesideSync: pins come from other goroutines, and Sync neither fails nor reads everything again for that. Nor does a pin fail
// because another program writes.
func TestPinsBesideSync(t *testing.T) {
	EnterNamespace(t)
	m := Machines[0]
	m.LoadForeign(t)
	b := open(t, m)
	full := Housing(20)
	Sync(t, b, full)
	kernel := Tap(b.conn.Conn)
	for i := range 20 {
		Must(t, b.Pin(t.Context(), numbered(PersonalUID, i*3, 3), time.Hour))
		if i%2 == 0 {
			Sync(t, b, Without(full))
		} else {
			Sync(t, b, full)
		}
	}
	if asked := kernel.Asked(); strings.Contains(asked, "other") || strings.Contains(asked, "generation") {
		t.Errorf("asked for %s", asked)
	}

	other := NewForeigner(t, m)
	ns, err := netns.Get()
	Must(t, err)
	defer ns.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	made := make([]int, 4)
	for g := range made {
		wg.Go(func() {
			runtime.LockOSThread() // and never unlocked: it may dial again
			if err := netns.Set(ns); err != nil {
				t.Error(err)
				return
			}
			random := rand.New(rand.NewPCG(1, uint64(g)))
			uid := PersonalUID + uint32(g)
			for ctx.Err() == nil {
				if err := b.Pin(ctx, numbered(uid, random.IntN(300), 1+random.IntN(5)), time.Duration(1+random.IntN(3000))*time.Second); err != nil && ctx.Err() == nil {
					t.Errorf("pin: %v", err)
				}
				if random.IntN(20) == 0 {
					if err := errors.Join(b.Unpin(ctx, numbered(uid, random.IntN(300), 100)), b.UnpinAll(ctx, uid+100)); err != nil && ctx.Err() == nil {
						t.Errorf("unpin: %v", err)
					}
				}
				made[g]++
			}
		})
	}
	for end, i := time.Now().Add(2*time.Second), 0; time.Now().Before(end); i++ {
		if i%2 == 0 {
			Sync(t, b, Without(full))
		} else {
			Sync(t, b, full)
		}
		if i%5 == 0 {
			other.Write(t)
		}
		if i%50 == 0 {
			m.Shell(t, "nft flush set inet vifproxy pinned4")
		}
	}
	cancel()
	wg.Wait()
	Sync(t, b, full)
	held, err := b.conn.readPins()
	Must(t, err)
	if p := b.pins.Restore(held, b.pins.Now(), b.pins.Now()); !p.Empty() {
		t.Errorf("to be restored: %+v", p)
	}
	if len(held) != b.pins.Len() {
		t.Errorf("%d are remembered, of %d", b.pins.Len(), len(held))
	}
	if made[0] == 0 || made[3] == 0 {
		t.Errorf("%v pins: this shows nothing", made)
	}
}
