package firewall

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// opens reports whether a connection of this uid comes about. The fence refuses at once, its second chain in silence; so it
// waits long only for what is expected to open.
func opens(t *testing.T, uid int, to string, expected bool) (opened bool) {
	t.Helper()
	patience := 200 * time.Millisecond
	if expected {
		patience = 20 * time.Second
	}
	as(t, uid, func() {
		conn, err := (&net.Dialer{Timeout: patience}).Dial("tcp", to)
		if opened = err == nil; opened {
			conn.Close()
		}
	})
	return opened
}

// rulesOf finds the handles of a chain's rules, in their order.
func rulesOf(t *testing.T, table, chain string) (handles []string) {
	t.Helper()
	list := run(t, "", "nft", append([]string{"-a", "list", "chain"}, append(strings.Fields(table), chain)...)...)
	for _, found := range regexp.MustCompile(`(?m)^\t\t.* # handle (\d+)$`).FindAllStringSubmatch(list, -1) {
		handles = append(handles, found[1])
	}
	return handles
}

// TestWhatIsTakenAwayOpensNothing: another program flushes one of our chains or sets, or deletes one rule. Until the
// repair, no proxy goes where it may not, and nobody comes to a proxy who is not bound to it.
func TestWhatIsTakenAwayOpensNothing(t *testing.T) {
	enterNamespace(t)
	m := machines[1]
	a, b := site(t)
	attach(t, "uplink", internet, "192.0.2.1", 1).do(func() error { listen(t, internet+":80", "web"); return nil })
	attach(t, "wg0", "192.0.3.9", "192.0.3.1", 1).do(func() error { listen(t, "192.0.3.9:80", "tunnel"); return nil })
	listen(t, "127.0.0.1:80", "loopback")
	listen(t, gateway+":80", "gateway")
	b.do(func() error { listen(t, b.addr+":80", "b"); return nil })
	as(t, personalUID, func() { listen(t, gateway+":61000", "a's proxy") })
	as(t, socialUID, func() { listen(t, gateway+":61001", "b's proxy") })
	backend := m.open(t)
	want := State{Bindings: []Binding{personal}, Guarded: []uint16{61001}, Fence: Fence{Barred: []string{"wg0"},
		Proxies: []Proxy{{UID: personalUID, Holes: []Hole{hole("0.0.0.0/0", 0)}}}}}
	syncState(t, backend, want)
	if !opens(t, personalUID, internet+":80", true) || a.reach(gateway+":8100") != "a's proxy" {
		t.Fatal("what is open does not open")
	}

	knock := func(to string) (in bool) {
		b.do(func() error {
			conn, err := net.DialTimeout("tcp4", to, 200*time.Millisecond)
			if in = err == nil; in {
				conn.Close()
			}
			return nil
		})
		return in
	}
	damage := func(act string) {
		t.Helper()
		m.shell(t, "nft "+act)
		for _, to := range []string{"127.0.0.1:80", gateway + ":80", b.addr + ":80", "192.0.3.9:80"} {
			if opens(t, personalUID, to, false) {
				t.Errorf("%s: the proxy reaches %s", act, to)
			}
		}
		for _, to := range []string{gateway + ":8100", gateway + ":61000", gateway + ":61001"} {
			if knock(to) {
				t.Errorf("%s: somebody who is not bound comes to %s", act, to)
			}
		}
		if n := syncState(t, backend, want); n == 0 {
			t.Errorf("%s: not noticed", act)
		}
	}
	for _, c := range testConfig.chains(boundsOf(trackedMax())) {
		table := c.table
		if table == "vifproxy" {
			table = "ip vifproxy"
		}
		damage(fmt.Sprintf("flush chain %s %s", table, c.name))
		for i := range c.rules {
			damage(fmt.Sprintf("delete rule %s %s handle %s", table, c.name, rulesOf(t, table, c.name)[i]))
		}
	}
	normal, err := testConfig.normalState(want)
	must(t, err)
	held := elementsOf(normal)
	for i, s := range ourSets {
		table := s.table
		if table == "vifproxy" {
			table = "ip vifproxy"
		}
		if slices.ContainsFunc(held, func(e element) bool { return e.set == i }) && table != "qubes" {
			kind := map[bool]string{false: "set", true: "map"}[s.to != nil]
			damage(fmt.Sprintf("flush %s %s %s", kind, table, s.name))
		}
	}
	if !opens(t, personalUID, internet+":80", true) || a.reach(gateway+":8100") != "a's proxy" {
		t.Error("what is open does not open again")
	}
	for _, c := range constants { // nobody can
		if out, err := exec.Command("nft", "flush", "set", "inet", "vifproxy", c.name).CombinedOutput(); err == nil {
			t.Errorf("%s was flushed: %s", c.name, out)
		}
	}
}

// TestUnfenced: an error says whether the fence stands. It does where only something else went wrong.
func TestUnfenced(t *testing.T) {
	want := State{Bindings: []Binding{personal}, Fence: wide()}
	next := State{Bindings: []Binding{social}, Fence: wide()}
	for name, test := range map[string]struct {
		do       func(t *testing.T, m machine, b *nftBackend) State
		unfenced bool
	}{
		"undone each time": {func(t *testing.T, m machine, b *nftBackend) State {
			tap(b).meanwhile = func() { m.shell(t, "nft add rule inet vifproxy egress accept") }
			return next
		}, true},
		"deleted each time": {func(t *testing.T, m machine, b *nftBackend) State {
			tap(b).meanwhile = func() { m.shell(t, "nft add table inet vifproxy; nft delete table inet vifproxy") }
			return next
		}, true},
		"cannot write": {func(t *testing.T, m machine, b *nftBackend) State {
			withoutNetAdmin(t)
			return next
		}, true},
		"cannot read": {func(t *testing.T, m machine, b *nftBackend) State {
			withoutNetAdmin(t)
			return want
		}, true},
		"others are busy": {func(t *testing.T, m machine, b *nftBackend) State {
			other := newForeigner(t, m)
			syncState(t, b, want)
			tap(b).meanwhile = func() { other.write(t) }
			return next
		}, false},
		"connection lost": {func(t *testing.T, m machine, b *nftBackend) State {
			b.conn.socket.Close()
			return next
		}, false},
		"state that cannot be": {func(t *testing.T, m machine, b *nftBackend) State {
			return State{Bindings: []Binding{{Vif: "-"}}}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			enterNamespace(t)
			m := machines[1]
			b := m.open(t).(*nftBackend)
			syncState(t, b, want)
			if _, err := b.Sync(t.Context(), test.do(t, m, b), func() {}); err == nil || errors.Is(err, ErrUnfenced) != test.unfenced {
				t.Errorf("error %v; unfenced: %t, want %t", err, !test.unfenced, test.unfenced)
			}
		})
	}
}

// withoutNetAdmin takes from this thread what it takes to speak with nftables. The thread ends with the test.
func withoutNetAdmin(t *testing.T) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	must(t, unix.Capget(&header, &caps[0]))
	caps[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	must(t, unix.Capset(&header, &caps[0]))
}

// TestRepairedBesideABadState: a state that cannot be written is no reason to leave undone what another program did.
func TestRepairedBesideABadState(t *testing.T) {
	enterNamespace(t)
	m := machines[1]
	b := m.open(t)
	syncState(t, b, State{Bindings: []Binding{personal}, Fence: wide()})
	good := m.rules(t)
	m.shell(t, "nft flush ruleset")
	if _, err := b.Sync(t.Context(), State{Bindings: []Binding{{Vif: "-"}}}, func() { t.Error("called in force") }); err == nil {
		t.Error("no error")
	}
	if got := m.rules(t); got != good {
		t.Errorf("not repaired:\n%s", diff(good, got))
	}
}

// TestNeedsNoProgram: start and repair need none, so an nft that crashes, or is being upgraded, is no trouble.
func TestNeedsNoProgram(t *testing.T) {
	enterNamespace(t)
	other := newForeigner(t, machines[1])
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	b := machines[1].open(t)
	few := limit
	few.Cur = 0 // no program starts without a pipe
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	must(t, other.conn.transact(0, removeTables(snapshot{ownTable: true, fenceTable: true})))
	if n := syncState(t, b, State{Bindings: []Binding{personal}, Fence: wide()}); n != 1 {
		t.Errorf("%d writes instead of 1", n)
	}
}

// TestForeignRuleInQubesTableKeepsNoFenceDown: a rule of a person's that leads to our chain in Qubes' table keeps that chain
// from being replaced, and nothing else. It is put right when the rule has gone.
func TestForeignRuleInQubesTableKeepsNoFenceDown(t *testing.T) {
	enterNamespace(t)
	m := machines[0]
	m.loadForeign(t)
	b := m.open(t)
	want := State{Bindings: []Binding{personal}, Fence: wide()}
	syncState(t, b, want)
	fence := func() string { return run(t, "", "nft", "-s", "list", "table", "inet", "vifproxy") }
	good, all := fence(), sorted(m.rules(t))
	m.shell(t, `nft add rule ip qubes input jump vifproxy-input
		nft delete table inet vifproxy`)
	for range 2 {
		if _, err := b.Sync(t.Context(), want, func() {}); err == nil || errors.Is(err, ErrUnfenced) || !strings.Contains(err.Error(), "ip qubes") {
			t.Errorf("error %v", err)
		}
		if got := fence(); got != good {
			t.Errorf("the fence does not stand:\n%s", diff(good, got))
		}
	}
	m.shell(t, "nft delete rule ip qubes input handle "+rulesOf(t, "ip qubes", "input")[8])
	syncState(t, b, want)
	if got := sorted(m.rules(t)); got != all {
		t.Errorf("not put right:\n%s", diff(all, got))
	}
}
