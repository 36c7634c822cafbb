package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/ruleset"
	"vifproxy/firewall/tracking"
	"vifproxy/internal/netlink"
)

// TestWhatIsTakenAwayOpensNothing: another program flushes one of our chains or sets, or deletes one rule. Until the
// repair, no proxy goes where it may not, and nobody comes to a proxy who is not bound to it.
func TestWhatIsTakenAwayOpensNothing(t *testing.T) {
	EnterNamespace(t)
	m := Machines[1]
	a, b := NewSite(t)
	Attach(t, "uplink", Internet, "192.0.2.1", 1).Do(func() error {
		Listen(t, Internet+":80", "web")
		Listen(t, Internet+":53", "name server")
		return nil
	})
	Attach(t, "wg0", "192.0.3.9", "192.0.3.1", 1).Do(func() error { Listen(t, "192.0.3.9:80", "tunnel"); return nil })
	Listen(t, "127.0.0.1:80", "loopback")
	Listen(t, Gateway+":80", "gateway")
	b.Do(func() error { Listen(t, b.Addr+":80", "b"); return nil })
	As(t, PersonalUID, func() { Listen(t, Gateway+":61000", "a's proxy") })
	As(t, SocialUID, func() { Listen(t, Gateway+":61001", "b's proxy") })
	backend := open(t, m)
	const strangerUID = PersonalUID + 100
	want := firewall.State{Bindings: []firewall.Binding{Personal}, Guarded: []uint16{61001}, Askers: Askers, Fence: firewall.Fence{
		Barred: []string{"wg0"}, Resolvers: []netip.Addr{netip.MustParseAddr(Internet)},
		Proxies: []firewall.Proxy{{UID: PersonalUID, Openings: []firewall.Opening{OpeningTo("0.0.0.0/0", 0)}},
			{UID: SocialUID, Listed: []netip.Addr{netip.MustParseAddr("198.51.100.7")}}, {UID: PersonalUID + 1000, AnyAddress: true}}}}
	Sync(t, backend, want)
	pins := []firewall.Pin{pin(SocialUID, Internet), pin(SocialUID, "2001:db8::1")}
	Must(t, backend.Pin(t.Context(), pins, firewall.PinMax))
	opens := func() bool {
		return Opens(t, PersonalUID, Internet+":80", true) && a.Reach(Gateway+":8100") == "a's proxy" &&
			Opens(t, SocialUID, Internet+":80", true) && Opens(t, NamesUID, Internet+":53", true) && AsksByUDP(t, SocialUID, "127.0.0.1:53")
	}
	if !opens() {
		t.Fatal("what is open does not open")
	}

	knock := func(to string) (in bool) {
		b.Do(func() error {
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
		m.Shell(t, "nft "+act)
		for _, to := range []string{"127.0.0.1:80", Gateway + ":80", b.Addr + ":80", "192.0.3.9:80"} {
			if Opens(t, PersonalUID, to, false) {
				t.Errorf("%s: the proxy reaches %s", act, to)
			}
			if Opens(t, NamesUID, to, false) {
				t.Errorf("%s: the resolver reaches %s", act, to)
			}
		}
		for uid, to := range map[int]string{strangerUID: Internet + ":80", NamesUID: Internet + ":80", SocialUID: Internet + ":53"} {
			if Opens(t, uid, to, false) {
				t.Errorf("%s: uid %x reaches %s", act, uid, to)
			}
		}
		if AsksByUDP(t, strangerUID, Internet+":53") || AsksByUDP(t, SocialUID, b.Addr+":99") || AsksByUDP(t, NamesUID, "127.0.0.1:99") {
			t.Errorf("%s: a datagram leaves", act)
		}
		for _, to := range []string{Gateway + ":8100", Gateway + ":61000", Gateway + ":61001"} {
			if knock(to) {
				t.Errorf("%s: somebody who is not bound comes to %s", act, to)
			}
		}
		if n := Sync(t, backend, want); n == 0 {
			t.Errorf("%s: not noticed", act)
		}
	}
	for _, c := range zones(chains(TestConfig, boundsOf(tracking.Places())), TestConfig) {
		table := c.table
		if table == "vifproxy" {
			table = "ip vifproxy"
		}
		damage(fmt.Sprintf("flush chain %s %s", table, c.name))
		for i := range c.rules {
			damage(fmt.Sprintf("delete rule %s %s handle %s", table, c.name, RulesOf(t, table, c.name)[i]))
		}
	}
	normal, err := TestConfig.Normal(want)
	Must(t, err)
	for _, s := range ourSets {
		table := s.table
		if table == "vifproxy" {
			table = "ip vifproxy"
		}
		if len(s.elementsOf(normal)) > 0 && table != "qubes" && s.isFor(TestConfig) {
			kind := map[bool]string{false: "set", true: "map"}[s.to != nil]
			damage(fmt.Sprintf("flush %s %s %s", kind, table, s.name))
		}
	}
	for _, s := range []*set{pinned.four, pinned.six} {
		damage("flush set inet vifproxy " + s.name)
	}
	if !opens() {
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
	want := firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide()}
	next := firewall.State{Bindings: []firewall.Binding{Social}, Fence: Wide()}
	for name, test := range map[string]struct {
		do       func(t *testing.T, m Machine, b *Backend) firewall.State
		unfenced bool
	}{
		"undone each time": {func(t *testing.T, m Machine, b *Backend) firewall.State {
			Tap(b.conn.Conn).Meanwhile = func() { m.Shell(t, "nft add rule inet vifproxy egress accept") }
			return next
		}, true},
		"deleted each time": {func(t *testing.T, m Machine, b *Backend) firewall.State {
			Tap(b.conn.Conn).Meanwhile = func() { m.Shell(t, "nft add table inet vifproxy; nft delete table inet vifproxy") }
			return next
		}, true},
		"cannot write": {func(t *testing.T, m Machine, b *Backend) firewall.State {
			withoutNetAdmin(t)
			return next
		}, true},
		"cannot read": {func(t *testing.T, m Machine, b *Backend) firewall.State {
			withoutNetAdmin(t)
			return want
		}, true},
		"others are busy": {func(t *testing.T, m Machine, b *Backend) firewall.State {
			other := NewForeigner(t, m)
			Sync(t, b, want)
			Tap(b.conn.Conn).Meanwhile = func() { other.Write(t) }
			return next
		}, false},
		"connection lost": {func(t *testing.T, m Machine, b *Backend) firewall.State {
			b.conn.Socket.Close()
			return next
		}, false},
		"state that cannot be": {func(t *testing.T, m Machine, b *Backend) firewall.State {
			return firewall.State{Bindings: []firewall.Binding{{Vif: "-"}}}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			EnterNamespace(t)
			m := Machines[1]
			b := open(t, m)
			Sync(t, b, want)
			if _, err := b.Sync(t.Context(), test.do(t, m, b), func() {}); err == nil || errors.Is(err, firewall.ErrUnfenced) != test.unfenced {
				t.Errorf("error %v; unfenced: %t, want %t", err, !test.unfenced, test.unfenced)
			}
		})
	}
}

// withoutNetAdmin takes from this thread what it takes to speak with nftables. The thread ends with the test.
func withoutNetAdmin(t *testing.T) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	Must(t, unix.Capget(&header, &caps[0]))
	caps[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	Must(t, unix.Capset(&header, &caps[0]))
}

// TestRepairedBesideABadState: a state that cannot be written is no reason to leave undone what another program did.
func TestRepairedBesideABadState(t *testing.T) {
	EnterNamespace(t)
	m := Machines[1]
	b := open(t, m)
	Sync(t, b, firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide()})
	good := m.Rules(t)
	m.Shell(t, "nft flush ruleset")
	if _, err := b.Sync(t.Context(), firewall.State{Bindings: []firewall.Binding{{Vif: "-"}}}, func() { t.Error("called in force") }); err == nil {
		t.Error("no error")
	}
	if got := m.Rules(t); got != good {
		t.Errorf("not repaired:\n%s", Diff(good, got))
	}
}

// TestNeedsNoProgram: start and repair need none, so an nft that crashes, or is being upgraded, is no trouble.
func TestNeedsNoProgram(t *testing.T) {
	EnterNamespace(t)
	other := NewForeigner(t, Machines[1])
	var limit unix.Rlimit
	Must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	b := open(t, Machines[1])
	few := limit
	few.Cur = 0 // no program starts without a pipe
	Must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	both, err := b.conn.read()
	Must(t, err)
	Must(t, other.Conn.Transact(0, removeTables(both)))
	if n := Sync(t, b, firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide()}); n != 1 {
		t.Errorf("%d writes instead of 1", n)
	}
}

// TestForeignRuleInQubesTableKeepsNoFenceDown: a rule of a person's that leads to our chain in Qubes' table keeps that chain
// from being replaced, and nothing else. It is put right when the rule has gone.
func TestForeignRuleInQubesTableKeepsNoFenceDown(t *testing.T) {
	EnterNamespace(t)
	m := Machines[0]
	m.LoadForeign(t)
	b := open(t, m)
	want := firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide()}
	Sync(t, b, want)
	fence := func() string { return Run(t, "", "nft", "-s", "list", "table", "inet", "vifproxy") }
	good, all := fence(), Sorted(m.Rules(t))
	m.Shell(t, `nft add rule ip qubes input jump vifproxy-input
		nft delete table inet vifproxy`)
	for range 2 {
		if _, err := b.Sync(t.Context(), want, func() {}); err == nil || errors.Is(err, firewall.ErrUnfenced) || !strings.Contains(err.Error(), "ip qubes") {
			t.Errorf("error %v", err)
		}
		if got := fence(); got != good {
			t.Errorf("the fence does not stand:\n%s", Diff(good, got))
		}
	}
	m.Shell(t, "nft delete rule ip qubes input handle "+RulesOf(t, "ip qubes", "input")[8])
	Sync(t, b, want)
	if got := Sorted(m.Rules(t)); got != all {
		t.Errorf("not put right:\n%s", Diff(all, got))
	}
}

// TestTableThatIsOwnedByAnotherProgram: another program has replaced ours by a table that it owns. Such a table goes with its program, and
// the generation stays. The fence is up in the same Sync. If the program lives on, Sync says soon that there is no fence: each try waits
// for the kernel, and proxies run meanwhile.
func TestTableThatIsOwnedByAnotherProgram(t *testing.T) {
	EnterNamespace(t)
	m := Machines[1]
	b := open(t, m)
	want := firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide()}
	Sync(t, b, want)
	good := m.Rules(t)
	replace := func() (owner *ruleset.Conn) {
		t.Helper()
		owner, err := ruleset.Dial()
		Must(t, err)
		now, err := b.conn.read()
		Must(t, err)
		const byOwner = 2 // NFT_TABLE_F_OWNER
		err = owner.Transact(0, append(removeTables(now), about(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, fenceTable,
			netlink.Append(nil, unix.NFTA_TABLE_FLAGS, net32(byOwner)...))))
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("this kernel has no tables with an owner") // since Linux 5.12
		}
		Must(t, err)
		return owner
	}

	owner := replace()
	loads := 0
	Tap(b.conn.Conn).Meanwhile = func() {
		if loads++; loads == 1 {
			owner.Close()
		}
	}
	Sync(t, b, want)
	if got := m.Rules(t); got != good || loads == 0 {
		t.Errorf("after %d loads:\n%s", loads, Diff(good, got))
	}

	owner = replace()
	tried := 0
	dial := b.dial
	b.dial = func() (*kernel, error) { tried++; return dial() } // after each try that fails
	if _, err := b.Sync(t.Context(), want, func() {}); !errors.Is(err, firewall.ErrUnfenced) || tried > 2 {
		t.Errorf("error %v after %d tries", err, tried)
	}
	owner.Close()
	Sync(t, b, want)
	if got := m.Rules(t); got != good {
		t.Errorf("when the owner had gone:\n%s", Diff(good, got))
	}
}
