package nft

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/tracking"
	"vifproxy/internal/await"
)

// secondsTracked are the seconds for which connection tracking remembers what has this port, by protocol.
func secondsTracked(t *testing.T, protocol uint8, port uint16) (seconds []uint32) {
	t.Helper()
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	Must(t, err)
	six, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET6)
	Must(t, err)
	flows = append(flows, six...)
	for _, f := range flows {
		if f.Forward.Protocol == protocol && f.Forward.DstPort == port {
			seconds = append(seconds, f.TimeOut)
		}
	}
	return seconds
}

// TestConnectionsThatAreOverAreForgottenInSeconds: those of AppVMs to their proxies, and those of proxies.
func TestConnectionsThatAreOverAreForgottenInSeconds(t *testing.T) {
	EnterNamespace(t)
	a, _ := NewSite(t)
	Attach(t, "uplink", Internet, "192.0.2.1", 1).Do(func() error { Listen(t, Internet+":80", "web"); return nil })
	Listen(t, Gateway+":61000", "a's proxy")
	Listen(t, "[::1]:53", "resolver")
	Sync(t, open(t, Machines[1]), firewall.State{Bindings: []firewall.Binding{Personal}, Askers: Askers,
		Fence: firewall.Fence{Resolvers: []netip.Addr{netip.MustParseAddr(Internet), netip.IPv6Loopback()}, Proxies: Everywhere(PersonalUID)}})
	reach := func(who, want string) {
		t.Helper()
		if who != want {
			t.Fatal(who)
		}
	}
	for _, c := range []struct {
		what     string
		protocol uint8
		port     uint16
		connect  func()
	}{
		{"of an AppVM", unix.IPPROTO_TCP, 8100, func() { reach(a.Reach(Gateway+":8100"), "a's proxy") }},
		{"of a proxy", unix.IPPROTO_TCP, 80, func() { reach(Answer(t, PersonalUID, Internet+":80"), "web") }},
		{"the resolver's question by TCP", unix.IPPROTO_TCP, 53, func() { reach(Answer(t, NamesUID, "[::1]:53"), "resolver") }},
		{"the resolver's question by IPv6", unix.IPPROTO_UDP, 53, func() { AsksByUDP(t, NamesUID, "[::1]:53") }},
		{"the resolver's question", unix.IPPROTO_UDP, 53, func() { AsksByUDP(t, NamesUID, Internet+":53") }},
		{"a proxy's question", unix.IPPROTO_UDP, 53, func() { AsksByUDP(t, PersonalUID, "127.0.0.1:53") }},
	} {
		seen := 0
		for range 20 { // some are forgotten before they are looked at, if the machine is busy
			c.connect()
			seen += len(secondsTracked(t, c.protocol, c.port))
		}
		if seen == 0 {
			t.Errorf("%s: none is tracked: this shows nothing", c.what)
		}
		const patience, most = 10 * time.Second, 10 // until the last packets have come; nothing of 30 s is at 10 by then
		long := func(seconds uint32) bool { return seconds > most }
		for begin := time.Now(); slices.ContainsFunc(secondsTracked(t, c.protocol, c.port), long); time.Sleep(time.Millisecond) {
			if time.Since(begin) > patience {
				t.Fatalf("%s: remembered for %v s", c.what, secondsTracked(t, c.protocol, c.port))
			}
		}
	}
}

// trackAtMost has connection tracking have so many places, as far as bounds depend on it.
func trackAtMost(n int) (restore func()) {
	before := tracking.Places
	tracking.Places = func() int { return n }
	return func() { tracking.Places = before }
}

// TestOneAppVMUsesItsShareOfTracking: whatever an AppVM connects, and however often, others connect. What is beyond its share
// is refused at once, and is not tracked.
func TestOneAppVMUsesItsShareOfTracking(t *testing.T) {
	defer trackAtMost(2048)()
	EnterNamespace(t)
	a, b := NewSite(t)
	Listen(t, Gateway+":61000", "a's proxy")
	Listen(t, Gateway+":61001", "b's proxy")
	Bind(t, open(t, Machines[1]), Personal, Social)
	dial := func(h *Host, times int, keep bool) (refused, broken int, open []net.Conn) {
		h.Do(func() error {
			for range times {
				conn, err := net.DialTimeout("tcp4", Gateway+":8100", 5*time.Second)
				switch {
				case err == nil && keep:
					open = append(open, conn)
				case err == nil:
					conn.Close()
				case ClosedOut(err):
					refused++
				default:
					broken++
				}
			}
			return nil
		})
		return refused, broken, open
	}

	begin := time.Now()
	refused, broken, _ := dial(a, 1000, false)
	took := time.Since(begin)
	if passed, most := 1000-refused, burstMin+rateMin*(int(took/time.Second)+2); passed < burstMin || passed > most || broken > 0 {
		t.Errorf("%d of 1000 in %v pass, want %d to %d; %d are refused otherwise", passed, took, burstMin, most, broken)
	}
	if n := len(secondsTracked(t, unix.IPPROTO_TCP, 8100)); n > 1000-refused {
		t.Errorf("%d are tracked, %d connected", n, 1000-refused)
	}
	if refused, broken, _ := dial(b, 100, false); refused+broken > 0 {
		t.Errorf("of the neighbour's 100, %d are refused, %d otherwise", refused, broken)
	}

	// And slowly, as many as it likes.
	refused, broken, open := 0, 0, []net.Conn(nil)
	for range 30 {
		r, o, more := dial(b, 10, true)
		refused, broken, open = refused+r, broken+o, append(open, more...)
		time.Sleep(300 * time.Millisecond)
	}
	if len(open) < heldMin-10 || len(open) > heldMin || refused+len(open) != 300 {
		t.Errorf("%d are held, %d refused, %d otherwise; want some %d", len(open), refused, broken, heldMin)
	}
	for _, conn := range open {
		conn.Close()
	}
	await.Until(t, "ten connect, when those are over", func() bool {
		refused, broken, _ := dial(b, 10, false)
		return refused+broken == 0
	})
}

// lacking is a kernel that does not know one kind of expression.
type lacking struct{ io.ReadWriteCloser }

func (l lacking) Write(request []byte) (int, error) {
	return l.ReadWriteCloser.Write(bytes.ReplaceAll(request, []byte("connlimit\x00"), []byte("nonesuch0\x00")))
}

// TestKernelWithoutBounds: it lacks a module that bounds take. The rest stands, and it is told once.
func TestKernelWithoutBounds(t *testing.T) {
	EnterNamespace(t)
	var log bytes.Buffer
	b := New(slog.New(slog.NewTextHandler(&log, nil)), TestConfig)
	b.dial = func() (*kernel, error) { // once more after each error
		k, err := dial()
		if err == nil {
			k.Socket = lacking{k.Socket}
		}
		return k, err
	}
	for range 2 {
		Sync(t, b, firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide()})
		Machines[1].Shell(t, "nft flush ruleset")
	}
	Sync(t, b, firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide()})
	if n := strings.Count(log.String(), "fill connection tracking"); n != 1 {
		t.Errorf("told %d times: %s", n, &log)
	}
	if strings.Contains(log.String(), "ZONES") {
		t.Errorf("it does not lack that: %s", &log)
	}
	if rules := Machines[1].Rules(t); strings.Contains(rules, "limit rate") || !strings.Contains(rules, "goto fence") {
		t.Errorf("rules: %s", rules)
	}
}
