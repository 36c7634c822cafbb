package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// watch returns a function that ends watching and tells what the kernel announced in the firewall VM
// meanwhile, in its order: links, IPv4 addresses, routes of the main table and permanent neighbours.
func watch(t *testing.T, l *Lab) (events func() []string) {
	t.Helper()
	socket, err := nl.SubscribeAt(l.fw.ns, netns.None(), unix.NETLINK_ROUTE, unix.RTNLGRP_LINK,
		unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	names, states := map[int]string{}, map[string]string{}
	return func() (events []string) {
		t.Helper()
		defer socket.Close()
		announceEnd(t, l)
		for {
			messages, _, err := socket.Receive()
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range messages {
				e := describe(t, m, names)
				if strings.HasSuffix(e, " end down, group 0") {
					return events
				}
				if link, isLink := strings.CutPrefix(e, "NEWLINK "); isLink {
					// The kernel repeats itself: flags and group are two changes, and the carrier is told
					// of whenever it has time (net/core/link_watch.c).
					name, state, _ := strings.Cut(link, " ")
					if states[name] == state {
						continue
					}
					states[name] = state
				}
				if strings.Contains(e, " vif") {
					events = append(events, e)
				}
			}
		}
	}
}

func announceEnd(t *testing.T, l *Lab) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "end"
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "end", PeerNamespace: netlink.NsFd(l.net.space.ns)}
	err := l.Do(func() error { return errors.Join(netlink.LinkAdd(link), netlink.LinkDel(link)) })
	if err != nil {
		t.Fatal(err)
	}
}

func describe(t *testing.T, m syscall.NetlinkMessage, names map[int]string) string {
	t.Helper()
	fail := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		header := unix.NlMsghdr(m.Header)
		link, err := netlink.LinkDeserialize(&header, m.Data)
		fail(err)
		a := link.Attrs()
		names[a.Index] = a.Name
		if m.Header.Type == unix.RTM_DELLINK {
			return "DELLINK " + a.Name
		}
		state := "down"
		if a.Flags&net.FlagUp != 0 {
			state = "up"
		}
		return fmt.Sprintf("NEWLINK %s %s, group %d", a.Name, state, a.Group)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		n, err := netlink.NeighDeserialize(m.Data)
		fail(err)
		if n.Family != unix.AF_INET || n.State != netlink.NUD_PERMANENT {
			return ""
		}
		return fmt.Sprintf("%sNEIGH %s %v", verb(m, unix.RTM_NEWNEIGH), names[n.LinkIndex], n.IP)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		msg := nl.DeserializeIfAddrmsg(m.Data)
		attrs, err := nl.ParseRouteAttr(m.Data[msg.Len():])
		fail(err)
		for _, a := range attrs {
			if a.Attr.Type == unix.IFA_LOCAL {
				return fmt.Sprintf("%sADDR %s %v/%d", verb(m, unix.RTM_NEWADDR), names[int(msg.Index)],
					net.IP(a.Value), msg.Prefixlen)
			}
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		msg := nl.DeserializeRtMsg(m.Data)
		attrs, err := nl.ParseRouteAttr(m.Data[msg.Len():])
		fail(err)
		if msg.Table != unix.RT_TABLE_MAIN {
			return ""
		}
		var dst net.IP
		var index, metric uint32
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.RTA_DST:
				dst = a.Value
			case unix.RTA_OIF:
				index = nl.NativeEndian().Uint32(a.Value)
			case unix.RTA_PRIORITY:
				metric = nl.NativeEndian().Uint32(a.Value)
			}
		}
		return fmt.Sprintf("%sROUTE %s %v/%d, metric %d, type %d, protocol %d, scope %d",
			verb(m, unix.RTM_NEWROUTE), names[int(index)], dst, msg.Dst_len, metric, msg.Type, msg.Protocol,
			msg.Scope)
	}
	return ""
}

func verb(m syscall.NetlinkMessage, add uint16) string {
	if m.Header.Type == add {
		return "NEW"
	}
	return "DEL"
}

func expect(t *testing.T, got []string, want string) {
	t.Helper()
	if g := strings.Join(got, "\n"); g != strings.TrimSpace(want) {
		t.Errorf("the kernel announced\n%s\nwant\n%s", g, strings.TrimSpace(want))
	}
}

// The expected order is the one recorded on Xen 4.17 with Qubes' hotplug script.
func TestAttachAndDetachAsRecorded(t *testing.T) {
	eachRuleset(t, func(t *testing.T, r Ruleset) {
		l := newLab(t, Options{Ruleset: r})
		events := watch(t, l)
		if err := l.Attach(personal); err != nil {
			t.Fatal(err)
		}
		if err := l.Detach("vif2.0"); err != nil {
			t.Fatal(err)
		}
		expect(t, events(), `
NEWLINK vif2.0 down, group 0
NEWNEIGH vif2.0 10.137.0.15
NEWLINK vif2.0 up, group 2
NEWROUTE vif2.0 10.137.0.15/32, metric 32750, type 1, protocol 3, scope 253
NEWADDR vif2.0 10.138.1.1/32
NEWLINK vif2.0 down, group 2
DELNEIGH vif2.0 10.137.0.15
DELADDR vif2.0 10.138.1.1/32
DELLINK vif2.0`)
	})
}

func TestAttachHalfWay(t *testing.T) {
	l := newLab(t, Options{})
	events := watch(t, l)
	for _, s := range []Step{Created, Up, Routed} {
		if err := l.AttachUpTo(personal, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.AttachUpTo(personal, Up); err == nil {
		t.Error("an attach went backwards")
	}
	other := work
	other.DomID = personal.DomID
	if err := l.Attach(other); err == nil {
		t.Error("a vif was given to a second VM")
	}
	got := events()
	if last := got[len(got)-1]; !strings.HasPrefix(last, "NEWROUTE vif2.0") {
		t.Errorf("the last of %d events is %q, want the route", len(got), last)
	}
	if err := l.Attach(personal); err != nil {
		t.Fatal(err)
	}
	if err := dials(t, l, "personal", "198.51.100.1:80"); err != nil {
		t.Error("after the attach was finished:", err)
	}
}

// An AppVM that dies as it starts, and a backend torn down under the hotplug script.
func TestVanish(t *testing.T) {
	l := newLab(t, Options{}, work)
	events := watch(t, l)
	if err := l.AttachUpTo(personal, Created); err != nil {
		t.Fatal(err)
	}
	if err := l.Vanish("vif2.0"); err != nil {
		t.Fatal(err)
	}
	expect(t, events(), "NEWLINK vif2.0 down, group 0\nDELLINK vif2.0")
	if err := l.Vanish("vif3.0"); err != nil {
		t.Fatal(err)
	}
	if err := l.Vanish("vif3.0"); err == nil {
		t.Error("a vif vanished twice")
	}
	if set := output(t, l, "nft", "list", "set", "ip", "qubes", "allowed"); !strings.Contains(set, "vif3.0") {
		t.Error("the antispoofing element of a vanished vif is gone")
	}
}

func TestRunningVMIsDetachedAndAttached(t *testing.T) {
	eachRuleset(t, func(t *testing.T, r Ruleset) {
		l := newLab(t, Options{Ruleset: r}, personal)
		index := l.vifs["vif2.0"].index
		moved := personal
		moved.DomID = 9
		for _, next := range []VM{personal, moved} { // at once again, and behind a new vif
			for name := range l.vifs {
				if err := l.Detach(name); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Attach(next); err != nil {
				t.Fatal(err)
			}
			v := l.vifs[next.Vif()]
			if v.index == index {
				t.Errorf("%s has its old ifindex", next.Vif())
			}
			index = v.index
			if err := dials(t, l, "personal", "198.51.100.1:80"); err != nil {
				t.Errorf("behind %s: %v", next.Vif(), err)
			}
		}
	})
}

// An HVM has two vifs with one IP. Only one of them may use the port, which shows where packets come from.
func TestHVM(t *testing.T) {
	hvm := VM{Name: "windows", IP: netip.MustParseAddr("10.137.0.20"), DomID: 7}
	stub := hvm
	stub.DomID = 8
	l := newLab(t, Options{}, hvm, stub)
	accepting(t, l, "0.0.0.0:8100")
	output(t, l, strings.Fields("nft add rule ip qubes custom-input iifname vif8.0 tcp dport 8100 accept")...)
	gateway := Gateway.String() + ":8100"
	if err := dials(t, l, "windows", gateway); err == nil {
		t.Error("the HVM does not use its first vif")
	}
	if err := l.Use("vif8.0"); err != nil {
		t.Fatal(err)
	}
	if err := dials(t, l, "windows", gateway); err != nil {
		t.Error("the HVM was told to use its second vif:", err)
	}
	if err := l.Use("vif7.0"); err != nil {
		t.Fatal(err)
	}
	if err := l.Detach("vif7.0"); err != nil {
		t.Fatal(err)
	}
	if err := dials(t, l, "windows", gateway); err != nil {
		t.Error("with its first vif gone the HVM does not use the second:", err)
	}
}

func TestRefusals(t *testing.T) {
	l := newLab(t, Options{})
	for _, vm := range []VM{
		{Name: "../evil", IP: personal.IP}, {Name: "", IP: personal.IP}, {Name: "none"},
		{Name: "six", IP: netip.IPv6LinkLocalAllNodes()}, {Name: "big", IP: personal.IP, DomID: maxDomID + 1},
	} {
		if err := l.Attach(vm); err == nil {
			t.Errorf("%+v was attached", vm)
		}
	}
	if err := l.Detach("vif2.0"); err == nil {
		t.Error("a vif was detached that does not exist")
	}
	if err := dials(t, l, "nobody", "198.51.100.1:80"); err == nil {
		t.Error("a VM connected that does not exist")
	}
	if _, err := New(t.Context(), Options{Ruleset: "r40"}); err == nil {
		t.Error("there is no ruleset r40")
	}
}

// Many come and go at a time; at the end nothing of them is left in the firewall VM.
func TestStorm(t *testing.T) {
	l := newLab(t, Options{})
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			for i := range 15 {
				vm := VM{Name: fmt.Sprintf("vm%d", w), IP: netip.AddrFrom4([4]byte{10, 137, 1, byte(w)}),
					DomID: 100*w + i}
				if err := l.Attach(vm); err != nil {
					t.Error(err)
				}
				if err := l.Detach(vm.Vif()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	ours := regexp.MustCompile(`vif\d|10\.137\.1\.`)
	for _, listing := range []string{output(t, l, "ip", "link"), output(t, l, "nft", "list", "ruleset")} {
		if ours.MatchString(listing) {
			t.Errorf("left over:\n%s", listing)
		}
	}
}

// One namespace plays two AppVMs: each is found behind its own vif, under its own address.
func TestThrough(t *testing.T) {
	one := VM{Name: "crowd", IP: netip.MustParseAddr("10.137.0.11"), DomID: 2}
	two := VM{Name: "crowd", IP: netip.MustParseAddr("10.137.0.12"), DomID: 3}
	l := newLab(t, Options{}, one, two)
	for _, vm := range []VM{one, two} {
		var addrs []net.Addr
		err := l.Through(vm.Vif(), func(nic string) error {
			link, err := net.InterfaceByName(nic)
			if err != nil {
				return err
			}
			addrs, err = link.Addrs()
			return err
		})
		if want := vm.IP.String() + "/32"; err != nil || len(addrs) != 1 || addrs[0].String() != want {
			t.Errorf("behind %s: %v, %v; want %s", vm.Vif(), addrs, err, want)
		}
	}
	if err := l.Through("vif9.0", func(string) error { return nil }); err == nil {
		t.Error("there is no vif9.0")
	}
}
