package nft

import (
	"net"
	"net/netip"
	"testing"
	"time"

	batched "golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

// connectAs makes so many connections as a uid, all at once, and returns their sockets, and how many are refused.
func connectAs(t *testing.T, uid, times int, to string) (sockets []int, refused int) {
	t.Helper()
	target := netip.MustParseAddrPort(to)
	As(t, uid, func() {
		for range times {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			Must(t, err)
			sockets = append(sockets, fd)
			_ = unix.Connect(fd, &unix.SockaddrInet4{Addr: target.Addr().As4(), Port: int(target.Port())}) // SO_ERROR tells
		}
	})
	var open []int
	for _, fd := range sockets {
		for err := error(unix.EINTR); err == unix.EINTR; {
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 20000)
		}
		why, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		Must(t, err)
		if _, err := unix.Getpeername(fd); err == nil {
			open = append(open, fd)
			continue
		}
		unix.Close(fd)
		if refused++; unix.Errno(why) != unix.ECONNREFUSED {
			t.Errorf("a connection fails: %v", unix.Errno(why))
		}
	}
	return open, refused
}

func closeAll(sockets []int) {
	for _, fd := range sockets {
		unix.Close(fd)
	}
}

// TestOneProxyUsesItsShareOfTracking: a proxy that makes connections too fast is made to wait, and one that holds too many is refused
// more. Its neighbour notices neither.
func TestOneProxyUsesItsShareOfTracking(t *testing.T) {
	defer trackAtMost(2048)()
	EnterNamespace(t)
	Attach(t, "uplink", Internet, "192.0.2.1", 1).Do(func() error {
		Listen(t, Internet+":80", "web")
		return nil
	})
	const web, server = Internet + ":80", Internet + ":53"
	Sync(t, open(t, Machines[1]), firewall.State{Askers: Askers, Fence: firewall.Fence{Ports: []uint16{80},
		Resolvers: []netip.Addr{netip.MustParseAddr(Internet)}, Proxies: Everywhere(PersonalUID, SocialUID)}})
	beyond := func(uid int) bool {
		t.Helper()
		is, err := Beyond(uint32(uid))
		Must(t, err)
		return is
	}

	begin := time.Now()
	sockets, refused := connectAs(t, PersonalUID, 100, web)
	if len(sockets) != 100 || beyond(PersonalUID) {
		t.Errorf("of a page's 100 connections, %d are refused; they take %v", refused, time.Since(begin))
	}
	more, refused := connectAs(t, PersonalUID, 100, web)
	if took := time.Since(begin); len(more) != 100 || took < time.Second || !beyond(PersonalUID) {
		t.Errorf("of 100 more at once, %d are refused; they take %v", refused, took)
	}
	for sockets = append(sockets, more...); refused == 0 && len(sockets) <= 2*heldMin; sockets = append(sockets, more...) {
		more, refused = connectAs(t, PersonalUID, 20, web)
	}
	if len(sockets) != heldMin || !beyond(PersonalUID) {
		t.Errorf("it holds %d, want %d", len(sockets), heldMin)
	}
	if Opens(t, PersonalUID, web, false) {
		t.Error("one more")
	}
	others, refused := connectAs(t, SocialUID, 100, web)
	if len(others) != 100 || beyond(SocialUID) {
		t.Errorf("of the neighbour's 100, %d are refused", refused)
	}
	closeAll(others)
	closeAll(sockets)
	for end := time.Now().Add(10 * time.Second); !Opens(t, PersonalUID, web, true); {
		if time.Now().After(end) {
			t.Fatal("none, although all are over")
		}
		time.Sleep(10 * time.Millisecond)
	}

	// asks asks until a question is refused. The kernel remembers each for some seconds, and a busy machine takes several times as long.
	asks := func(uid int, seconds uint32) (asked, times int) {
		begin := time.Now()
		for asked < 16*2048 && AsksByUDP(t, uid, server) {
			asked++
		}
		return asked, 1 + int(time.Since(begin).Seconds()/float64(seconds))
	}
	if asked, times := asks(PersonalUID, udpSeconds); asked < questionsMin-1 || asked > times*(2048/questionsPart+10) || !AsksByUDP(t, SocialUID, server) {
		t.Errorf("%d questions, in %d times what the kernel remembers them", asked, times)
	}
	const pages = 3 * 2 * 120 // of three AppVMs at once: both families of 120 names
	if asked, times := asks(NamesUID, resolverSeconds); asked < pages || asked > times*(2048/resolverPart+256) || !beyond(NamesUID) || !AsksByUDP(t, SocialUID, server) {
		t.Errorf("the resolver asks %d, in %d times what the kernel remembers them", asked, times)
	}
}

// TestFloodOfQuestions: one socket is tracked once, however much it sends. What one proxy sends too fast does not come to the queue in
// which all questions wait.
func TestFloodOfQuestions(t *testing.T) {
	EnterNamespace(t)
	queue, err := net.ListenPacket("udp4", Askers[0].At.String())
	Must(t, err)
	defer queue.Close()
	Sync(t, open(t, Machines[1]), firewall.State{Askers: Askers})
	passed, refused, begin := 0, 0, time.Now()
	As(t, PersonalUID, func() {
		conn, err := net.Dial("udp4", "127.0.0.1:53")
		Must(t, err)
		defer conn.Close()
		many := make([]batched.Message, 512) // for one call of the kernel: a busy machine must be faster than the bound
		for i := range many {
			many[i].Buffers = [][]byte{{'?'}}
		}
		for socket := batched.NewPacketConn(conn.(*net.UDPConn)); refused < 100 && passed < 100*questionRate; {
			sent, _ := socket.WriteBatch(many, 0)
			if passed += max(sent, 0); sent < len(many) { // the kernel ends at the first that it refuses
				refused++
			}
		}
	})
	most := questionRate + int(time.Since(begin).Seconds()*questionRate) + 100
	if is, err := Beyond(PersonalUID); passed < questionRate || passed > most || refused == 0 || !is || err != nil {
		t.Errorf("%d pass in %v, want %d to %d, and %d are refused; beyond %t, %v", passed, time.Since(begin), questionRate, most, refused, is, err)
	}
	if !AsksByUDP(t, SocialUID, "127.0.0.1:53") {
		t.Error("nor does the neighbour ask")
	}
}

// TestQuietResolverIsAnswered: after a pause without questions, the first one passes, also while rules or sets change: see resolverRoom.
func TestQuietResolverIsAnswered(t *testing.T) {
	EnterNamespace(t)
	NewSite(t)
	Attach(t, "uplink", Internet, "192.0.2.1", 1)
	Sync(t, open(t, Machines[1]), firewall.State{Askers: Askers, Fence: firewall.Fence{Resolvers: []netip.Addr{netip.MustParseAddr(Internet)}}})
	Run(t, "", "nft", "add table ip other; add set ip other ports { type inet_service; }")
	for range 3 { // with room for one uid, half of these are refused
		asked := time.Now()
		if !AsksByUDP(t, NamesUID, Internet+":53") {
			t.Fatal("the first question is refused")
		}
		time.Sleep(time.Duration(resolverSeconds)*time.Second - 100*time.Millisecond)
		for time.Since(asked) < time.Duration(resolverSeconds)*time.Second+1200*time.Millisecond { // the kernel looks once a second
			Run(t, "", "nft", "add element ip other ports { 5 }; delete element ip other ports { 5 }")
		}
		if !AsksByUDP(t, NamesUID, Internet+":53") {
			t.Fatal("a question after a pause is refused")
		}
	}
}
