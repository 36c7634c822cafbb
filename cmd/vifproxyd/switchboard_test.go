package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/firewall/switchboard/handover"
	"vifproxy/internal/lab"
	"vifproxy/internal/sockdiag"
)

// way returns how AppVMs get to their proxies.
func (s *site) way() control.Switchboard {
	s.Helper()
	status, err := control.NewClient(s.socket()).Status(s.Context())
	s.must(err)
	return status.Setup.Switchboard
}

// An AppVM is handed to its proxy. Nothing about that is tracked, and nobody else comes to the proxy, by whatever port.
func TestSwitchboard(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", bank)
	s.rules("play.10.137.0.12", shop)
	s.attach("work", "10.137.0.11")
	s.attach("play", "10.137.0.12")
	s.attach("other", "10.137.0.13")
	s.start()
	if is := s.way(); !is.Used || !is.Loaded {
		t.Fatalf("%+v", is)
	}
	if is := s.untilState("work", control.Running).Switchboard; is == nil || !is.Used {
		t.Errorf("show says %+v", is)
	}
	s.says("doctor", "ok     switchboard  the kernel hands connections to the proxies, without NAT\n")
	s.opens("work", "http://bank.example/", "https://bank.example/")
	s.opens("play", "http://shop.example/")
	s.refuses("play", "http://bank.example/")
	s.must(s.Do(func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		for _, f := range flows {
			if strings.Contains(f.String(), "10.137.0.") {
				t.Errorf("tracked: %s", f)
			}
		}
		return err
	}))

	s.inFirewall("nft", "insert rule ip qubes custom-input tcp dport { 8100, 61000-64999 } accept") // a careless admin
	for _, vm := range []string{"play", "other"} {
		s.comesNowhere(vm, s.show()["work"].Port)
	}
	s.comesNowhere("other", lab.ProxyPort)
	s.opens("play", "http://shop.example/")
	s.stop()
}

// comesNowhere checks that an AppVM gets no connection at a port of its gateway.
func (s *site) comesNowhere(vm string, port int) {
	s.Helper()
	conn, err := s.Dial(s.Context(), vm, "tcp4", net.JoinHostPort(lab.Gateway.String(), fmt.Sprint(port)))
	if err == nil {
		conn.Close()
		s.Errorf("%s gets a connection at port %d", vm, port)
	}
}

// Where it is switched off, and where iptables decides, nat does the work. The kernel sets the proxies' options all the same, unless
// it is switched off.
func TestWithoutSwitchboard(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.startWith("--switchboard=off")
	if is := s.way(); is != (control.Switchboard{Why: "--switchboard=off"}) {
		t.Errorf("%+v", is)
	}
	s.stop()

	s = newSite(t, lab.R41)
	s.startWith()
	if is := s.way(); is.Used || !is.Loaded || !strings.Contains(is.Why, "iptables") {
		t.Errorf("%+v", is)
	}
	s.stop()
}

// startWith is startWork with options.
func (s *site) startWith(flags ...string) {
	s.Helper()
	s.rules("work.10.137.0.11", bank)
	s.attach("work", "10.137.0.11")
	s.start(flags...)
	s.opens("work", "http://bank.example/", "https://bank.example/")
}

// A vif that is made again under its old name has another index: the AppVM is served again, as its binding follows.
func TestSwitchboardFollowsAVifThatIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.startWith()
	for range 3 {
		s.must(s.Vanish(s.vifs["work"]))
		s.attach("work", "10.137.0.11")
		s.opens("work", "http://bank.example/")
	}
	s.stop()
}

// A proxy whose socket the switchboard does not know serves nobody: it is replaced, and if that does not help, people are told and the one
// before goes on.
func TestProxyThatTheSwitchboardDoesNotKnow(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.startWith()
	before := s.untilState("work", control.Running).PID
	sockets, err := ebpf.NewMapFromFD(s.stored(handover.Sockets.Name))
	s.must(err)
	defer sockets.Close()
	for _, socket := range s.boundSockets() {
		s.must(sockets.Delete(socket))
	}
	s.ctl("update")
	s.until("another process serves", func() error {
		if now := s.show()["work"]; now.PID == before || now.State != control.Running {
			return fmt.Errorf("pid %d, was %d, %s", now.PID, before, now.State)
		}
		return nil
	})
	s.opens("work", "http://bank.example/")

	s.detachProgram(handover.ConnectionsName)
	s.rules("work.10.137.0.11", bank, shop)
	s.until("the error is shown", func() error {
		if is := s.show()["work"].Error; !strings.Contains(is, "does not know the socket") {
			return errors.New(is)
		}
		return nil
	})
	s.opens("work", "http://bank.example/")
	s.refuses("work", "http://shop.example/")
	s.stop()
}

// Another program with root changes the maps, of which the kernel tells nobody: the daemon looks, and puts right what was changed.
func TestSwitchboardThatAnotherProgramChanges(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("work.10.137.71.11", bank)
	s.rules("play.10.137.71.12", shop)
	s.attach("work", "10.137.71.11")
	s.attach("play", "10.137.71.12")
	s.start()
	s.opens("work", "http://bank.example/")
	s.opens("play", "http://shop.example/")
	bindings, err := ebpf.NewMapFromFD(s.stored(handover.Bindings.Name))
	s.must(err)
	defer bindings.Close()
	port, err := ebpf.NewMapFromFD(s.stored(handover.Port.Name))
	s.must(err)
	defer port.Close()
	sockets, err := ebpf.NewMapFromFD(s.stored(handover.Sockets.Name))
	s.must(err)
	defer sockets.Close()
	before, err := s.bindingsOfSwitchboard()
	s.must(err)
	for i, change := range []struct {
		what string
		by   func(key [8]byte, socket uint64) error
	}{
		{"each AppVM leads to the other's proxy", func(key [8]byte, socket uint64) error {
			for other, theirs := range before {
				if other != key {
					socket = theirs
				}
			}
			return bindings.Put(key, socket)
		}},
		{"no AppVM is bound", func(key [8]byte, _ uint64) error { return bindings.Delete(key) }},
		{"no port leads to the proxies", func([8]byte, uint64) error { return port.Put(uint32(0), uint32(0)) }},
		{"no proxy can be bound", func(_ [8]byte, socket uint64) error { return sockets.Delete(socket) }},
	} {
		before, err = s.bindingsOfSwitchboard()
		s.must(err)
		for key, socket := range before {
			if err := change.by(key, socket); err != nil {
				t.Errorf("%s: %v", change.what, err)
			}
		}
		if i > 0 { // else until the daemon looks by itself
			s.does("update")
		}
		s.until(change.what+", and each AppVM has its own proxy again", func() error {
			return errors.Join(s.page("work", "http://bank.example/"), s.page("play", "http://shop.example/"),
				s.refused("work", "http://shop.example/"), s.refused("play", "http://bank.example/"))
		})
	}
	s.stop()
}

// Somebody freezes the map of bindings, and an AppVM leaves. The proxies of the others go on, whatever another program changes then.
func TestSwitchboardWithAFrozenMap(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("work.10.137.95.11", bank)
	s.rules("play.10.137.95.12", shop)
	s.attach("work", "10.137.95.11")
	s.attach("play", "10.137.95.12")
	s.start()
	s.opens("work", "http://bank.example/")
	s.opens("play", "http://shop.example/")
	process := s.show()["work"].PID
	bindings, err := ebpf.NewMapFromFD(s.stored(handover.Bindings.Name))
	s.must(err)
	defer bindings.Close()
	s.must(bindings.Freeze())
	s.detach("play")
	s.until("show says that the map is frozen", func() error {
		if text, problems, _ := s.ctl("show"); !strings.Contains(text+problems, "has frozen the map") {
			return errors.New(text + problems)
		}
		return nil
	})
	for range 3 {
		s.inFirewall("nft", "add table ip other; delete table ip other")
		s.ctl("update")
		s.opens("work", "http://bank.example/")
	}
	if now := s.show()["work"].PID; now != process {
		t.Errorf("the proxy is process %d, before %d", now, process)
	}
	if text, problems, _ := s.ctl("show"); !strings.Contains(text+problems, "has frozen the map") || strings.Contains(text+problems, "fence") {
		t.Errorf("show says\n%s%s", text, problems)
	}
	s.crash()
}

// AppVMs that come and go, however they do, leave nothing in the switchboard.
func TestSwitchboardForgetsWhoHasLeft(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.startWith()
	before := s.elements()
	for range 2 {
		var names []string
		for i := range 20 {
			name, ip := fmt.Sprintf("vm%d", i), fmt.Sprintf("10.137.1.%d", i+1)
			s.rules(name+"."+ip, bank)
			s.attach(name, ip)
			names = append(names, name)
		}
		for _, name := range names {
			s.untilState(name, control.Running)
		}
		s.rules("vm0.10.137.1.1", shop) // the process before ends
		for i, name := range names {
			if i%2 == 0 {
				s.detach(name)
			} else {
				s.must(s.Vanish(s.vifs[name]))
			}
		}
		s.until("they are forgotten", func() error {
			if now := s.elements(); !maps.Equal(now, before) {
				return fmt.Errorf("%v, before %v", now, before)
			}
			return nil
		})
	}
	s.stop()
	for name, n := range s.elements() {
		t.Errorf("after the end, %s has %d elements", name, n)
	}
}

// elements returns how many elements the maps of the switchboard have.
func (s *site) elements() map[string]int {
	s.Helper()
	all := map[string]int{}
	for _, like := range []handover.Map{handover.Bindings, handover.Sockets, handover.Expected} {
		m, err := ebpf.NewMapFromFD(s.stored(like.Name))
		s.must(err)
		defer m.Close()
		var key [8]byte
		for err = m.NextKey(nil, &key); err == nil; err = m.NextKey(key, &key) {
			all[like.Name]++
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			s.Error(err)
		}
	}
	return all
}

// An AppVM that says it is at an address of loopback comes to no proxy's port, even if an administrator has had the kernel believe it.
func TestAppVMIsNotOnLoopback(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.startWith()
	s.attach("other", "10.137.0.13")
	s.inFirewall("sh", "-c", "cd /proc/sys/net/ipv4/conf; for d in all "+s.vifs["other"]+"; do echo 1 >$d/route_localnet; echo 0 >$d/rp_filter; done")
	s.inFirewall("nft", "add table ip careless { chain seen { type filter hook input priority -100; ip saddr 127.1.2.3 counter; }; }")
	s.inFirewall("nft", "insert rule ip qubes antispoof accept")
	s.inFirewall("nft", "insert rule ip qubes custom-input accept")
	port := uint16(s.show()["work"].Port)
	from, to := netip.MustParseAddrPort("127.1.2.3:40000"), netip.AddrPortFrom(lab.Gateway, port)
	s.until("the packet has passed the routing tables", func() error {
		s.must(s.DoVM("other", func() error { return sendSYN(from, to) }))
		if seen := s.inFirewall("nft", "list chain ip careless seen"); strings.Contains(seen, "packets 0 ") {
			return errors.New(seen)
		}
		return nil
	})
	s.must(s.Do(func() error {
		sockets, err := sockdiag.IPv4()
		for _, c := range sockets {
			if c.Remote.Addr() == from.Addr() {
				t.Errorf("the proxy's socket has a connection from %s", c.Remote)
			}
		}
		return err
	}))
	s.stop()
}

// sendSYN sends the first packet of a connection from any address.
func sendSYN(from, to netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	tcp := binary.BigEndian.AppendUint16(nil, from.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, to.Port())
	tcp = append(tcp, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, 2, 0x10, 0, 0, 0, 0, 0) // its flags are SYN
	var sum uint32
	pseudo := slices.Concat(from.Addr().AsSlice(), to.Addr().AsSlice(), []byte{0, unix.IPPROTO_TCP, 0, byte(len(tcp))}, tcp)
	for b := range slices.Chunk(pseudo, 2) {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum+sum>>16))
	ip := slices.Concat([]byte{4<<4 | 5, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_TCP, 0, 0}, from.Addr().AsSlice(), to.Addr().AsSlice())
	return unix.Sendto(fd, append(ip, tcp...), 0, &unix.SockaddrInet4{Addr: to.Addr().As4()})
}

// If somebody detaches the program that hands connections over, nobody reaches a proxy, and nobody reaches another's: the daemon says so.
// Its restart attaches the program again.
func TestDetachedSwitchboard(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.startWith()
	s.attach("other", "10.137.0.13")
	s.detachProgram(handover.LookupName)
	s.comesNowhere("work", lab.ProxyPort)
	for _, vm := range []string{"work", "other"} {
		s.comesNowhere(vm, s.show()["work"].Port)
	}
	s.until("doctor tells", func() error {
		out, _, _ := s.ctl("doctor")
		if !strings.Contains(out, "may be shut out from their proxies: restart vifproxyd: vifproxy-lookup") ||
			strings.Contains(out, "the kernel hands connections to the proxies") {
			return errors.New(out)
		}
		return nil
	})
	s.stop()
	s.start()
	s.opens("work", "http://bank.example/")
	s.stop()
}

// boundSockets returns those that AppVMs are bound to.
func (s *site) boundSockets() []uint64 {
	s.Helper()
	bound, err := s.bindingsOfSwitchboard()
	s.must(err)
	return slices.Collect(maps.Values(bound))
}

// Qubes deletes what is tracked of an AppVM as often as it likes: no tunnel notices, and no request.
func TestDeletedTrackingIsNotNoticed(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", bank, echoRule)
	s.attach("work", "10.137.0.11")
	s.start()
	s.opens("work", "http://bank.example/")
	tunnel := s.tunnel("work", "echo.example:443")
	ctx, stop := context.WithCancel(t.Context())
	deletions := 0
	var deleting sync.WaitGroup
	deleting.Go(func() {
		for ; ctx.Err() == nil; deletions++ {
			err := s.Do(func() error {
				_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, fromWork{})
				return err
			})
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	for range 200 {
		if err := echoes(tunnel); err != nil {
			t.Error(err)
			break
		}
		if err := s.page("work", "http://bank.example/"); err != nil {
			t.Error(err)
			break
		}
	}
	stop()
	deleting.Wait()
	t.Logf("%d deletions", deletions)
	s.stop()
}
