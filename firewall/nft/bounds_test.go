package nft

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/ruleset"
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
	Sync(t, open(t, Machines[1]), firewall.State{Bindings: []firewall.Binding{Personal},
		Fence: firewall.Fence{Resolvers: []netip.Addr{netip.MustParseAddr(Internet), netip.IPv6Loopback()}}})
	for range 20 {
		if who := Answer(t, PersonalUID, "[::1]:53"); who != "resolver" {
			t.Fatal(who)
		}
		AsksByUDP(t, PersonalUID, "[::1]:53")
		if who := a.Reach(Gateway + ":8100"); who != "a's proxy" {
			t.Fatal(who)
		}
		if who := Answer(t, PersonalUID, Internet+":80"); who != "web" {
			t.Fatal(who)
		}
		AsksByUDP(t, PersonalUID, Internet+":53")
	}
	time.Sleep(50 * time.Millisecond) // the last packets
	for what, found := range map[string][]uint32{
		"of an AppVM": secondsTracked(t, unix.IPPROTO_TCP, 8100), "of a proxy": secondsTracked(t, unix.IPPROTO_TCP, 80),
		"a question": secondsTracked(t, unix.IPPROTO_UDP, 53), "a question by TCP": secondsTracked(t, unix.IPPROTO_TCP, 53),
	} {
		if len(found) < 20 || what == "a question" && len(found) < 40 {
			t.Errorf("%s: %d are tracked: this shows nothing", what, len(found))
		}
		for _, seconds := range found {
			if seconds > 10 {
				t.Errorf("%s: remembered for %d s", what, seconds)
			}
		}
	}
}

// trackAtMost has connection tracking have so many places, as far as bounds depend on it.
func trackAtMost(n int) (restore func()) {
	before := TrackedMax
	TrackedMax = func() int { return n }
	return func() { TrackedMax = before }
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
	time.Sleep(time.Second)
	if refused, broken, _ := dial(b, 10, false); refused+broken > 0 {
		t.Errorf("when they are over, %d are refused, %d otherwise", refused, broken)
	}
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
	conn, err := ruleset.Dial()
	Must(t, err)
	conn.Socket = lacking{conn.Socket}
	b.Use(conn)
	for range 2 {
		Sync(t, b, firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide()})
		Machines[1].Shell(t, "nft flush ruleset")
	}
	Sync(t, b, firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide()})
	if n := strings.Count(log.String(), "fill connection tracking"); n != 1 {
		t.Errorf("told %d times: %s", n, &log)
	}
	if rules := Machines[1].Rules(t); strings.Contains(rules, "limit rate") || !strings.Contains(rules, "goto fence") {
		t.Errorf("rules: %s", rules)
	}
}
