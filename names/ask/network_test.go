package ask_test

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"vifproxy/internal/await"
	"vifproxy/names/ask"
	"vifproxy/names/ask/asktest"
)

// inside says to this program that it runs in a network of its own.
const inside = "VIFPROXY_TEST_NETWORK"

// inNetwork runs the test again, in a process that has a network of its own, where nothing is up. It reports whether this is that process.
func inNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// up switches loopback on, and gives it an address.
func up(t *testing.T, addr string) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Error(err)
		return
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Error(err)
		return
	}
	if err := errors.Join(netlink.AddrAdd(lo, a), netlink.LinkSetUp(lo)); err != nil {
		t.Error(err)
	}
}

// Without a route to any server, the reason is told after a second try. If the route comes meanwhile, the name is found.
func TestNoRoute(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	a := ask.New()
	a.Configure(ask.Config{Servers: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.53:53"), netip.MustParseAddrPort("[2001:db8::53]:53")}})
	_, err := a.Share().Ask(t.Context(), name, typA)
	const want = "203.0.113.53: network is unreachable, 2001:db8::53: cannot assign requested address"
	if err == nil || err.Error() != want || !a.Silent() {
		t.Fatal(err)
	}
	comes := make(chan struct{})
	time.AfterFunc(100*time.Millisecond, func() { // between the first and the second try
		defer close(comes)
		up(t, "203.0.113.53/32")
		asktest.StartAt(t, netip.MustParseAddrPort("203.0.113.53:53"), right)
	})
	answer, err := a.Share().Ask(t.Context(), name, typA)
	if err != nil { // the machine stood still between these tries
		await.Value(t, "the route", comes)
		answer, err = a.Share().Ask(t.Context(), name, typA)
	}
	if err != nil || len(answer.Addrs) != 1 || a.Silent() {
		t.Error(answer, err)
	}
}

// A rule of the machine's own packet filter that drops questions is named as such: nobody guesses it from the words of the kernel.
func TestARuleDropsQuestions(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	up(t, "203.0.113.53/32")
	if out, err := exec.Command("nft", "add table ip t; add chain ip t o { type filter hook output priority 0; }; add rule ip t o udp dport 53 drop").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	a := ask.New()
	a.Configure(ask.Config{Servers: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.53:53")}})
	const want = "a rule of this VM's firewall drops questions to 203.0.113.53"
	if _, err := a.Share().Ask(t.Context(), name, typA); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
