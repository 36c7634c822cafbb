package netwatch

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// recording returns the messages of a pcap file, linktype NETLINK: records of a 16 byte header, a cooked
// header of 16 bytes, and the datagram.
//
// testdata/xen-driver-domain.pcap has the notifications about links, addresses, routes and neighbours that a
// driver domain's kernel (Xen 4.17, Linux 6.1) sent while guests came and went, with Qubes' vif-route-qubes
// as the hotplug script.
func recording(t testing.TB) (datagrams [][]byte) {
	t.Helper()
	file, err := os.ReadFile("testdata/xen-driver-domain.pcap")
	if err != nil {
		t.Fatal(err)
	}
	if binary.LittleEndian.Uint32(file[20:]) != 253 {
		t.Fatal("not a netlink recording")
	}
	for rest := file[24:]; len(rest) > 0; {
		size := binary.LittleEndian.Uint32(rest[8:])
		datagrams = append(datagrams, rest[32:16+size])
		rest = rest[16+size:]
	}
	return datagrams
}

// model is the state of a kernel as far as its notifications tell it.
type model struct {
	links  []link
	addrs  []address
	routes []route
}

func (k *model) apply(t *testing.T, m syscall.NetlinkMessage) {
	t.Helper()
	var err error
	switch fam := family(m.Data); {
	case m.Header.Type == unix.RTM_NEWLINK, m.Header.Type == unix.RTM_DELLINK:
		var l link
		l, err = decodeLink(m.Data)
		gone := m.Header.Type == unix.RTM_DELLINK
		k.links = slices.DeleteFunc(k.links, func(x link) bool { return x.index == l.index })
		if !gone {
			k.links = append(k.links, l)
		}
		if gone || !l.up {
			// No notification tells of it: fib_disable_ip in net/ipv4/fib_frontend.c.
			k.routes = slices.DeleteFunc(k.routes, func(x route) bool { return x.oif == l.index })
		}
		if gone && slices.ContainsFunc(k.addrs, func(x address) bool { return x.index == l.index }) {
			t.Errorf("%s went before its addresses", l.name)
		}
	case fam != unix.AF_INET:
	case m.Header.Type == unix.RTM_NEWADDR, m.Header.Type == unix.RTM_DELADDR:
		var a address
		a, err = decodeAddress(m.Data)
		k.addrs = slices.DeleteFunc(k.addrs, func(x address) bool { return x == a })
		if m.Header.Type == unix.RTM_NEWADDR {
			k.addrs = append(k.addrs, a)
		}
	case m.Header.Type == unix.RTM_NEWROUTE, m.Header.Type == unix.RTM_DELROUTE:
		var r route
		r, err = decodeRoute(m.Data)
		k.routes = slices.DeleteFunc(k.routes, func(x route) bool { return x == r })
		if m.Header.Type == unix.RTM_NEWROUTE {
			k.routes = append(k.routes, r)
		}
	}
	if err != nil {
		t.Errorf("message type %d: %v", m.Header.Type, err)
	}
}

// What real guests did, in the order of the recording: two start and are shut down; one starts, and has its
// network card detached and attached again (vif4.0 twice); vif5.0 is created and destroyed at once; a guest
// reboots (vif6.0, vif7.0).
const whatHappened = `
address of vif2.0: connected 10.137.0.15 at 10.138.1.1
address of vif3.0: connected 10.137.0.16 at 10.138.1.1
link vif2.0: disconnected 10.137.0.15
link vif3.0: disconnected 10.137.0.16
address of vif4.0: connected 10.137.0.15 at 10.138.1.1
link vif4.0: disconnected 10.137.0.15
address of vif4.0: connected 10.137.0.15 at 10.138.1.1
link vif4.0: disconnected 10.137.0.15
address of vif6.0: connected 10.137.0.18 at 10.138.1.1
link vif6.0: disconnected 10.137.0.18
address of vif7.0: connected 10.137.0.18 at 10.138.1.1
link vif7.0: disconnected 10.137.0.18
`

// at is what Look finds.
func (k model) at(h Hint) Snapshot {
	return connected(k.links, k.addrs, slices.DeleteFunc(slices.Clone(k.routes), func(r route) bool { return r.oif != h.Link }))
}

func TestReplayOfXen(t *testing.T) {
	var (
		kernel   model
		snapshot Snapshot
		happened strings.Builder
		wakes    int
	)
	names := map[int32]string{}
	events := newFilter(nil, true)
	datagrams := recording(t)
	for _, datagram := range datagrams {
		hints := events.concerns(datagram)
		wakes += len(hints)
		messages, err := syscall.ParseNetlinkMessage(datagram)
		if err != nil || len(messages) != 1 {
			t.Fatalf("%d messages in a notification: %v", len(messages), err)
		}
		m := messages[0]
		kernel.apply(t, m)
		now := connected(kernel.links, kernel.addrs, kernel.routes)
		if now.Equal(snapshot) {
			continue
		}
		if len(hints) == 0 {
			t.Errorf("no hint when this became of %q: %q", snapshot, now)
		}
		for _, h := range hints {
			if after, ok := snapshot.After(h, kernel.at(h)); ok && !after.Equal(now) {
				t.Errorf("by a look, this became of %q: %q; but there was %q", snapshot, after, now)
			}
		}
		source := ""
		for _, l := range kernel.links {
			names[l.index] = l.name
		}
		switch m.Header.Type {
		case unix.RTM_NEWLINK:
			l, _ := decodeLink(m.Data)
			source = "link " + l.name
		case unix.RTM_NEWADDR:
			a, _ := decodeAddress(m.Data)
			source = "address of " + names[a.index]
		default:
			source = fmt.Sprint("message type ", m.Header.Type)
		}
		for _, vm := range now {
			if !slices.ContainsFunc(snapshot, func(x AppVM) bool { return x.Addr == vm.Addr }) {
				fmt.Fprintf(&happened, "%s: connected %s at %s\n", source, vm.Addr, vm.Gateway)
			}
			for _, vif := range vm.Vifs {
				if vif == "vif5.0" {
					t.Error("vif5.0 was destroyed before it was configured, and appeared")
				}
			}
		}
		for _, vm := range snapshot {
			if !slices.ContainsFunc(now, func(x AppVM) bool { return x.Addr == vm.Addr }) {
				fmt.Fprintf(&happened, "%s: disconnected %s\n", source, vm.Addr)
			}
		}
		snapshot = now
	}
	if want := strings.TrimPrefix(whatHappened, "\n"); happened.String() != want {
		t.Errorf("got:\n%swant:\n%s", happened.String(), want)
	}
	if len(kernel.links) != 0 || len(kernel.addrs) != 0 {
		t.Errorf("left over: links %v addresses %v", kernel.links, kernel.addrs)
	}
	// Per attach and detach: link new, link UP, route, address; link not UP, address gone, link gone.
	if most := 6*7 + 2; wakes > most {
		t.Errorf("%d wakes from %d notifications, want at most %d", wakes, len(datagrams), most)
	}
}
