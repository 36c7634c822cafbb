package netwatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	ours "vifproxy/internal/netlink"

	"vifproxy/internal/await"
)

// TestMain moves the whole test process into a network namespace of its own, by executing itself once more
// after unshare, so that every thread is in it and nothing touches the machine's network.
func TestMain(m *testing.M) {
	const inside = "NETWATCH_TEST_INSIDE"
	if os.Getenv(inside) == "" {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), inside+"=1"))
		}
		fmt.Fprintln(os.Stderr, "enter a network namespace (needs root):", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func vifName(domid, devid int) string { return fmt.Sprintf("vif%d.%d", domid, devid) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// addLink makes a link, one end of a veth pair; the other end is the guest's. Both go when the test ends.
func addLink(t testing.TB, name string) netlink.Link {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "g-" + name}
	check(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	l, err := netlink.LinkByName(name)
	check(t, err)
	return l
}

func hostRoute(l netlink.Link, ip string) *netlink.Route {
	return &netlink.Route{
		LinkIndex: l.Attrs().Index,
		Dst:       &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(32, 32)},
		Scope:     netlink.SCOPE_LINK,
	}
}

func gateway(t testing.TB, ip string) *netlink.Addr {
	t.Helper()
	addr, err := netlink.ParseAddr(ip + "/32")
	check(t, err)
	return addr
}

// attach does what vif-route-qubes does, in its order.
func attach(t testing.TB, name, ip string) netlink.Link {
	t.Helper()
	l := addLink(t, name)
	check(t, netlink.LinkSetUp(l))
	check(t, netlink.RouteAdd(hostRoute(l, ip)))
	check(t, netlink.AddrAdd(l, gateway(t, "10.138.1.1")))
	return l
}

// observer reads only when Watch woke it, and what the hint says, as the supervisor does.
type observer struct {
	woken  chan Hint
	ended  chan error
	cancel context.CancelFunc
	last   Snapshot
}

func (o *observer) wake(h Hint) { o.woken <- h }

func observe(t *testing.T, watch func(context.Context, func(Hint)) error) *observer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	o := &observer{woken: make(chan Hint, 1000), ended: make(chan error, 1), cancel: cancel}
	go func() { o.ended <- watch(ctx, o.wake) }()
	t.Cleanup(func() {
		cancel()
		if err := await.Value(t, "the end of watching", o.ended); err != nil {
			t.Error(err)
		}
	})
	return o
}

// until waits for the wake after which Read, or what there is without it, says want.
func (o *observer) until(t *testing.T, want string) {
	t.Helper()
	for giveUp := time.After(time.Minute); ; {
		select {
		case h := <-o.woken:
			o.heed(t, h)
		case <-giveUp:
			t.Fatalf("no wake any more, and the last Snapshot was:\n%swant:\n%s", o.last, want)
		}
		if o.last.String() == want {
			return
		}
	}
}

func (o *observer) heed(t *testing.T, h Hint) {
	t.Helper()
	found, err := Look(h)
	check(t, err)
	if now, ok := o.last.After(h, found); ok {
		o.last = now
		return
	}
	o.last, err = Read()
	check(t, err)
}

func TestRead(t *testing.T) {
	expect := func(want string) {
		t.Helper()
		if s, err := Read(); err != nil || s.String() != want {
			t.Errorf("Read = %v,\n%swant:\n%s", err, s, want)
		}
	}
	// First of all tests: in a new namespace there is not even a main table.
	expect("")
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	check(t, netlink.LinkSetUp(lo))
	expect("")

	l := attach(t, "vif2.0", "10.137.0.15")
	expect("10.137.0.15 via vif2.0 at 10.138.1.1\n")
	attach(t, "vif2.0-emu", "10.137.0.99")
	attach(t, "eth0", "192.0.2.1")
	expect("10.137.0.15 via vif2.0 at 10.138.1.1\n")

	// Nothing of this leads to an AppVM.
	elsewhere := hostRoute(l, "10.137.0.16")
	elsewhere.Table = 1000
	check(t, netlink.RouteAdd(elsewhere))
	hole := hostRoute(l, "10.137.0.17")
	hole.LinkIndex, hole.Type, hole.Scope = 0, unix.RTN_BLACKHOLE, netlink.SCOPE_UNIVERSE
	check(t, netlink.RouteAdd(hole))
	t.Cleanup(func() { check(t, netlink.RouteDel(hole)) })
	behind := hostRoute(l, "10.137.0.18")
	behind.Scope, behind.Gw = netlink.SCOPE_UNIVERSE, net.IPv4(10, 137, 0, 15)
	check(t, netlink.RouteAdd(behind))
	network := hostRoute(l, "10.137.1.0")
	network.Dst.Mask = net.CIDRMask(24, 32)
	check(t, netlink.RouteAdd(network))
	check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}}))
	expect("10.137.0.15 via vif2.0 at 10.138.1.1\n")

	// The same host by two vifs, with metrics as vif-route-qubes sets them, and a second address on the vif.
	check(t, netlink.AddrAdd(l, gateway(t, "10.138.1.2")))
	second := addLink(t, "vif3.0")
	check(t, netlink.LinkSetUp(second))
	r := hostRoute(second, "10.137.0.15")
	r.Priority = 32749
	check(t, netlink.RouteAdd(r))
	check(t, netlink.AddrAdd(second, gateway(t, "10.138.1.3")))
	expect("10.137.0.15 via vif2.0,vif3.0 at 10.138.1.3\n")
	check(t, netlink.LinkDel(second))
	expect("10.137.0.15 via vif2.0 at 10.138.1.1\n")
	check(t, netlink.LinkSetDown(l))
	expect("")
}

// TestReadWhileLinksComeAndGo shows that interrupted dumps never lose an AppVM that is there.
func TestReadWhileLinksComeAndGo(t *testing.T) {
	const vms = 60 // more than fit into one datagram
	for i := range vms {
		attach(t, vifName(100+i, 0), fmt.Sprintf("10.137.1.%d", i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	churned := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vif9.0"}, PeerName: "g-vif9.0"}
			err := netlink.LinkAdd(veth)
			if err == nil {
				err = netlink.LinkDel(veth)
			}
			if err != nil {
				churned <- err
				return
			}
		}
		churned <- nil
	}()
	for range 100 {
		s, err := Read()
		if err != nil || len(s) != vms {
			t.Errorf("%d AppVMs of %d, %v", len(s), vms, err)
			break
		}
	}
	cancel()
	check(t, await.Value(t, "the end of links that come and go", churned))
}

func TestWatchFollows(t *testing.T) {
	o := observe(t, Watch)
	o.until(t, "")
	const a, b = "10.137.0.15 via vif2.0 at 10.138.1.1\n", "10.137.0.16 via vif3.0 at 10.138.1.1\n"
	first := attach(t, "vif2.0", "10.137.0.15")
	o.until(t, a)
	attach(t, "vif3.0", "10.137.0.16")
	o.until(t, a+b)

	// A detach: the link is set down and removed. Then the same name once more, and a new domid for the address.
	check(t, netlink.LinkSetDown(first))
	o.until(t, b)
	check(t, netlink.LinkDel(first))
	second := attach(t, "vif2.0", "10.137.0.15")
	o.until(t, a+b)
	check(t, netlink.LinkDel(second)) // vanishes without a detach
	o.until(t, b)
	third := attach(t, "vif4.0", "10.137.0.15")
	o.until(t, "10.137.0.15 via vif4.0 at 10.138.1.1\n"+b)

	// Each of the conditions, one at a time. With a link's last address the kernel silently removes its routes
	// (fib_inetaddr_event in net/ipv4/fib_frontend.c).
	check(t, netlink.AddrAdd(third, gateway(t, "10.138.1.9")))
	check(t, netlink.AddrDel(third, gateway(t, "10.138.1.1")))
	o.until(t, "10.137.0.15 via vif4.0 at 10.138.1.9\n"+b)
	check(t, netlink.AddrDel(third, gateway(t, "10.138.1.9")))
	o.until(t, b)
	check(t, netlink.AddrAdd(third, gateway(t, "10.138.1.9")))
	check(t, netlink.RouteAdd(hostRoute(third, "10.137.0.15")))
	o.until(t, "10.137.0.15 via vif4.0 at 10.138.1.9\n"+b)
	check(t, netlink.RouteDel(hostRoute(third, "10.137.0.15")))
	o.until(t, b)
	check(t, netlink.RouteAdd(hostRoute(third, "10.137.0.17")))
	o.until(t, b+"10.137.0.17 via vif4.0 at 10.138.1.9\n")

	// One event for two changes: the route moves to a link that is not a vif.
	other := addLink(t, "eth0")
	check(t, netlink.LinkSetUp(other))
	check(t, netlink.RouteReplace(hostRoute(other, "10.137.0.17")))
	o.until(t, b)
	check(t, netlink.RouteReplace(hostRoute(third, "10.137.0.17")))
	o.until(t, b+"10.137.0.17 via vif4.0 at 10.138.1.9\n")
	if err := netlink.LinkSetName(third, "old"); errors.Is(err, unix.EBUSY) {
		return // before Linux 6.2 a link that is up keeps its name ("net: allow live renaming when an interface is up")
	} else {
		check(t, err)
	}
	o.until(t, b)
	check(t, netlink.LinkSetName(third, "vif4.0"))
	o.until(t, b+"10.137.0.17 via vif4.0 at 10.138.1.9\n")
}

// TestWatchStops waits for Watch to return while it is blocked in the kernel.
func TestWatchStops(t *testing.T) {
	o := observe(t, Watch)
	await.Value(t, "the first wake", o.woken)
	o.cancel()
	err := await.Value(t, "the end of watching", o.ended)
	o.ended <- err // for the clean-up
	check(t, err)
}

// TestQuietEvents shows with the kernel's own events that what happens most often wakes nobody.
func TestQuietEvents(t *testing.T) {
	l := attach(t, "vif2.0", "10.137.0.15")
	guest, err := netlink.LinkByName("g-vif2.0")
	check(t, err)
	events, err := subscribe(queueSize)
	check(t, err)
	defer events.Close()
	links, err := readLinks()
	check(t, err)
	f := newFilter(links, true)

	// A guest toggles its carrier; the uplink gets an address and a default route; a container comes and goes.
	for range 20 {
		check(t, netlink.LinkSetUp(guest))
		check(t, netlink.LinkSetDown(guest))
	}
	uplink := addLink(t, "eth0")
	check(t, netlink.LinkSetUp(uplink))
	check(t, netlink.AddrAdd(uplink, gateway(t, "192.0.2.7")))
	check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}}))
	check(t, netlink.LinkDel(uplink))
	// And then something that matters.
	check(t, netlink.LinkSetDown(l))

	quiet := 0
	for ; ; quiet++ {
		messages, err := events.Receive()
		check(t, err)
		if len(messages) != 1 {
			t.Fatalf("%d events at once", len(messages))
		}
		if _, concerns := f.update(messages[0].Type, messages[0].Body); concerns {
			down, err := decodeLink(messages[0].Body)
			if want := (link{int32(l.Attrs().Index), "vif2.0", false}); err != nil || down != want {
				t.Errorf("the first event to wake somebody was about %+v, %v; want %+v", down, err, want)
			}
			break
		}
	}
	if quiet < 50 {
		t.Errorf("only %d events before it, the kernel should have sent more than 50", quiet)
	}
}

// TestOverflow has the kernel drop events: its queue is as small as it can be and nobody reads it while
// twenty AppVMs come, since that happens within the first wake.
func TestOverflow(t *testing.T) {
	const vms = 20
	wakes := 0
	err := follow(t.Context(), func(Hint) {
		if wakes++; wakes == 1 {
			for i := range vms {
				attach(t, vifName(20+i, 0), fmt.Sprintf("10.137.2.%d", i))
			}
		}
	}, func() (*ours.Subscription, error) { return subscribe(1) }, readLinks)
	if !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("follow = %v, want ENOBUFS", err)
	}
}

// TestClosedSubscription takes the socket away under Watch.
func TestClosedSubscription(t *testing.T) {
	opened, ended := make(chan io.Closer, 1), make(chan error, 1)
	go func() {
		ended <- follow(t.Context(), func(Hint) {}, func() (*ours.Subscription, error) {
			events, err := subscribe(queueSize)
			opened <- events
			return events, err
		}, readLinks)
	}()
	check(t, await.Value(t, "the subscription", opened).Close())
	if err := await.Value(t, "the end of watching", ended); err == nil {
		t.Error("no error")
	}
}

// BenchmarkRead is the cost of one Read with 250 AppVMs connected. (The other ends of the pairs are links,
// too.)
func BenchmarkRead(b *testing.B) {
	const vms = 250
	for i := range vms {
		attach(b, vifName(i+1, 0), fmt.Sprintf("10.137.0.%d", i))
	}
	b.ReportAllocs()
	for b.Loop() {
		if s, err := Read(); err != nil || len(s) != vms {
			b.Fatal(len(s), err)
		}
	}
}
