package backend

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/ipt"
	"vifproxy/firewall/nft"
	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// withIptables runs a test on the machines whose chain INPUT is made with iptables.
func withIptables(t *testing.T, test func(t *testing.T, m Machine)) {
	OnEach(t, func(t *testing.T, m Machine) {
		if m.Iptables == "" {
			t.Skip("it has no chain INPUT of iptables")
		}
		test(t, m)
	})
}

// native are rules that iptables-nft has no words for. With them it lists, checks and deletes nothing in these tables.
const native = `
	nft add set ip filter mine '{ type ipv4_addr; elements = { 192.0.2.77 }; }'
	nft add rule ip filter INPUT ip saddr @mine drop
	nft add rule ip filter INPUT meta skuid 77 ct state new drop
	nft add rule ip filter OUTPUT meta skuid 77 ct state new drop
	nft add rule ip nat PREROUTING ct state new meta cgroup 77 accept`

// What iptables cannot list, another program's native rules, is in nobody's way: not at the start, for additions, repairs
// or the end.
func TestNativeRulesAreInNobodysWay(t *testing.T) {
	for _, when := range []string{"before", "later"} {
		t.Run(when, func(t *testing.T) {
			EnterNamespace(t)
			m := Machines[2]
			m.LoadForeign(t)
			a, b := NewSite(t)
			Listen(t, Gateway+":61000", "a's proxy")
			Listen(t, Gateway+":61001", "b's proxy")
			rules := func() string { return Run(t, "", "nft", "-s", "list", "ruleset") }
			var before string
			strange := func() {
				m.Shell(t, native)
				if try(m, "iptables -S INPUT") == nil {
					t.Fatal("iptables can list that: it is no test")
				}
			}
			if when == "before" {
				strange()
				before = rules()
			}
			backend := open(t, m)
			Bind(t, backend, Personal)
			if when == "later" {
				strange()
			}
			if n := Bind(t, backend, Personal); n != 0 {
				t.Errorf("%d writes with nothing to do", n)
			}
			Bind(t, backend, Personal, Social)
			for _, act := range []string{"true", "iptables -I INPUT -j DROP", "nft flush chain ip filter INPUT; " + native} {
				m.Shell(t, act)
				Bind(t, backend, Personal, Social)
				for _, h := range []*Host{a, b} {
					if got := h.Reach(Gateway + ":8100"); !strings.HasSuffix(got, "'s proxy") {
						t.Errorf("after %s: %s", act, got)
					}
				}
			}
			Must(t, backend.Remove(t.Context()))
			if got := rules(); strings.Contains(got, "vifproxy") || strings.Contains(got, "dport 61000") {
				t.Errorf("left over:\n%s", got)
			} else if when == "before" {
				m.Shell(t, "nft flush ruleset")
				m.LoadForeign(t)
				m.Shell(t, native)
				if again := rules(); Sorted(again) != Sorted(before) {
					t.Errorf("this is no test:\n%s", Diff(before, again))
				}
			}
		})
	}
}

// try runs commands as shell does, and returns how they end.
func try(m Machine, commands string) error {
	return exec.Command("/bin/sh", "-ec", strings.ReplaceAll(commands, "iptables", m.Iptables)).Run()
}

// Whatever is done to the tables of iptables, even for as long as nobody repairs it: nothing that was closed opens.
func TestFlushedIptablesOpenNothing(t *testing.T) {
	dir := t.TempDir()
	withIptables(t, func(t *testing.T, m Machine) {
		tmp, err := os.MkdirTemp(dir, "") // Shell reads "iptables" in the name of a subtest's own as the program
		Must(t, err)
		saved := tmp + "/saved"
		a, b := NewSite(t)
		Listen(t, Gateway+":61000", "a's proxy")
		Listen(t, Gateway+":61001", "b's proxy")
		Listen(t, "127.0.0.1:80", "loopback")
		Listen(t, Gateway+":80", "gateway")
		b.Do(func() error { Listen(t, b.Addr+":80", "b"); return nil })
		backend := open(t, m)
		want := firewall.State{Bindings: []firewall.Binding{Personal}, Guarded: []uint16{61001}, Fence: firewall.Fence{Proxies: []firewall.Proxy{{UID: PersonalUID}}}}
		Sync(t, backend, want)
		m.Shell(t, "iptables-save > "+saved)
		for _, act := range []string{
			"iptables -F OUTPUT", "iptables -P INPUT ACCEPT; iptables -F INPUT", "iptables -F", "iptables -X",
			"iptables -t nat -F", "iptables-restore < " + saved,
		} {
			m.Shell(t, act)
			for _, to := range []string{"127.0.0.1:80", Gateway + ":80", b.Addr + ":80", Gateway + ":61000"} {
				if who := Answer(t, PersonalUID, to); who != "refused" {
					t.Errorf("after %s: the proxy to %s: %s", act, to, who)
				}
			}
			for h, to := range map[*Host][]string{
				a: {Gateway + ":61001"}, b: {Gateway + ":8100", Gateway + ":61000", Gateway + ":61001"},
			} {
				for _, to := range to {
					if who := h.Reach(to); who != "closed out" {
						t.Errorf("after %s: %s to %s: %s", act, h.Addr, to, who)
					}
				}
			}
			Sync(t, backend, want)
			if who := a.Reach(Gateway + ":8100"); who != "a's proxy" {
				t.Errorf("after %s, and its repair: %s", act, who)
			}
		}
	})
}

// The admission is for what our nat has translated: a connection that another program translates to a port of the same
// range, and that INPUT refuses, stays refused.
func TestAdmissionIsForOurTranslationsOnly(t *testing.T) {
	withIptables(t, func(t *testing.T, m Machine) {
		a, _ := NewSite(t)
		Listen(t, Gateway+":61000", "a's proxy")
		Listen(t, Gateway+":63000", "a service")
		Bind(t, open(t, m), Personal)
		m.Shell(t, "nft flush chain ip vifproxy input") // the guard refuses it, too
		m.Shell(t, "iptables -t nat -A PREROUTING -p tcp --dport 9000 -j DNAT --to-destination "+Gateway+":63000")
		for to, want := range map[string]string{"8100": "a's proxy", "9000": "closed out", "63000": "closed out"} {
			if who := a.Reach(Gateway + ":" + to); who != want {
				t.Errorf("port %s: %s, want %s", to, who, want)
			}
		}
	})
}

// With a switchboard, the admission is for AppVMs only. A chain INPUT may come later than the daemon, and refuse who reaches another
// service at the port of all proxies from the uplink: that stays refused.
func TestAdmissionBesideASwitchboardIsForAppVMs(t *testing.T) {
	const words = `-A INPUT -i vif+ -p tcp -m tcp --dport 8100 -m comment --comment "kept by vifproxyd" -j ACCEPT`
	for _, m := range Machines[2:] {
		t.Run(m.Name, func(t *testing.T) {
			EnterNamespace(t)
			m.Kind = "auto"
			a, _ := NewSite(t)
			up := Attach(t, "uplink", Internet, "192.0.2.1", 1)
			Listen(t, "0.0.0.0:8100", "a service")
			b := open(t, m).(interface {
				firewall.Backend
				UseSwitchboard()
			})
			b.UseSwitchboard()
			state := firewall.State{Shared: TestConfig.ProxyPort, Bindings: []firewall.Binding{Personal}}
			Sync(t, b, state)
			reach := func(want string) {
				t.Helper()
				if who := a.Reach(Gateway + ":8100"); who != "a service" {
					t.Errorf("from the AppVM: %s", who)
				}
				if who := up.Reach("192.0.2.1:8100"); who != want {
					t.Errorf("from the uplink: %s, want %s", who, want)
				}
			}
			reach("a service")
			m.Shell(t, "iptables -A INPUT -p tcp -j REJECT")
			Sync(t, b, state)
			reach("closed out")

			// An older version had the port alone.
			const old = "INPUT -p tcp -m tcp --dport 8100 -m comment --comment 'kept by vifproxyd' -j ACCEPT"
			m.Shell(t, "iptables -D INPUT 1; iptables -I "+old)
			Sync(t, b, state)
			reach("closed out")
			if got := Run(t, "", m.Iptables, "-S", "INPUT"); got != "-P INPUT ACCEPT\n"+words+"\n-A INPUT -p tcp -j REJECT --reject-with icmp-port-unreachable\n" {
				t.Errorf("INPUT is\n%s", got)
			}

			// A daemon without a switchboard comes after one with it.
			Sync(t, open(t, m), firewall.State{Bindings: []firewall.Binding{Personal}})
			if got := Run(t, "", m.Iptables, "-S", "INPUT"); strings.Count(got, "kept by vifproxyd") != 1 || !strings.Contains(got, "--ctorigdstport 8100") {
				t.Errorf("without a switchboard, INPUT is\n%s", got)
			}
		})
	}
}

// oldRules are what vifproxy 0.1 kept, and among them rules of a person that look alike.
const oldRules = `
	iptables -N VIFPROXY-NO
	iptables -A VIFPROXY-NO -j REJECT
	iptables -N VIFPROXY-OUT
	iptables -A VIFPROXY-OUT -d 10.0.0.0/8 -g VIFPROXY-NO
	iptables -N VIFPROXY
	iptables -A VIFPROXY -s 10.137.0.11 -i vif1.0 -p tcp --dport 61000 -j ACCEPT
	iptables -I INPUT -m comment --comment vifproxy -j VIFPROXY
	iptables -I OUTPUT -m owner --uid-owner 1879048192-1912602623 -m comment --comment vifproxy -j VIFPROXY-OUT
	iptables -t nat -N VIFPROXY
	iptables -t nat -A VIFPROXY -s 10.137.0.11 -i vif1.0 -p tcp --dport 8100 -j DNAT --to-destination 10.138.0.1:61000
	iptables -t nat -I PREROUTING -m comment --comment vifproxy -j VIFPROXY
	ip6tables -N VIFPROXY-NO
	ip6tables -N VIFPROXY-OUT
	ip6tables -A VIFPROXY-OUT -g VIFPROXY-NO
	ip6tables -I OUTPUT -m owner --uid-owner 1879048192-1912602623 -m comment --comment vifproxy -j VIFPROXY-OUT`

// Whoever upgrades after a crash has rules of an older version.
func TestRulesOfOlderVersionsGo(t *testing.T) {
	for _, kind := range []string{"auto", "nftables"} {
		withIptables(t, func(t *testing.T, m Machine) {
			m.Kind = kind
			m.Shell(t, m.Users())
			before := Sorted(m.Rules(t))
			m.Shell(t, oldRules)
			backend := open(t, m)
			if got := m.IptablesRules(t); strings.Contains(got, "-N VIFPROXY") || strings.Contains(got, "-j VIFPROXY\n") {
				t.Errorf("%s: left over:\n%s", kind, got)
			}
			Must(t, backend.Remove(t.Context()))
			if got := Sorted(m.Rules(t)); got != before {
				t.Errorf("%s: after Remove:\n%s", kind, Diff(before, got))
			}
		})
	}
}

func TestRulesOfOlderVersionsGoBesideNativeOnes(t *testing.T) {
	EnterNamespace(t)
	m := Machines[2]
	m.LoadForeign(t)
	m.Shell(t, oldRules+native)
	m.Shell(t, "iptables -A FORWARD -j VIFPROXY-NO") // this one cannot go, which must not keep the others
	var log bytes.Buffer
	_, err := Open(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), "auto", TestConfig)
	Must(t, err)
	if !strings.Contains(log.String(), "remove chain VIFPROXY-NO of an older version: device or resource busy") {
		t.Errorf("log: %s", &log)
	}
	if got := Run(t, "", "nft", "list", "ruleset"); strings.Count(got, "VIFPROXY") != 2 {
		t.Errorf("want chain VIFPROXY-NO, and the rule that leads there:\n%s", got)
	}
}

// Both variants of iptables may be there, and a packet passes both.
func TestBothVariantsAtOnce(t *testing.T) {
	EnterNamespace(t)
	a, b := NewSite(t)
	Listen(t, Gateway+":61000", "a's proxy")
	for _, m := range Machines[2:] {
		m.LoadForeign(t)
	}
	before := Machines[2].IptablesRules(t) + Machines[3].IptablesRules(t)
	backend := open(t, Machines[2])
	Bind(t, backend, Personal)
	if who := a.Reach(Gateway + ":8100"); who != "a's proxy" {
		t.Error(who)
	}
	if who := b.Reach(Gateway + ":8100"); who != "closed out" {
		t.Error(who)
	}
	Must(t, backend.Remove(t.Context()))
	if after := Machines[2].IptablesRules(t) + Machines[3].IptablesRules(t); after != before {
		t.Error(Diff(before, after))
	}
}

// While another iptables-legacy holds the lock of all of them, a Sync waits; who has something newer to write need not.
func TestWaitForTheLockIsPutOff(t *testing.T) {
	EnterNamespace(t)
	m := Machines[3]
	m.LoadForeign(t)
	backend := open(t, m)
	lock, err := os.OpenFile("/run/xtables.lock", os.O_CREATE|os.O_RDONLY, 0o600)
	Must(t, err)
	defer lock.Close()
	Must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := backend.Sync(ctx, firewall.State{Bindings: []firewall.Binding{Personal}}, cancel); err == nil {
		t.Error("it did not wait")
	}
	if !slices.ContainsFunc(strings.Split(Run(t, "", "nft", "list", "map", "ip", "vifproxy", "ports"), "\n"),
		func(l string) bool { return strings.Contains(l, "10.137.0.11") }) {
		t.Error("the binding is not in force")
	}
	Must(t, unix.Flock(int(lock.Fd()), unix.LOCK_UN))
	Bind(t, backend, Personal)
}

// A kernel without nftables answers every request so (nfnetlink_rcv_msg).
type withoutNftables struct{ answers bytes.Buffer }

func (k *withoutNftables) Write(request []byte) (int, error) {
	answer := make([]byte, unix.SizeofNlMsghdr+4)
	binary.NativeEndian.PutUint32(answer, uint32(len(answer)))
	binary.NativeEndian.PutUint16(answer[4:], unix.NLMSG_ERROR)
	copy(answer[8:12], request[8:12])                                  // the number of the request
	binary.NativeEndian.PutUint32(answer[16:], ^uint32(unix.EINVAL)+1) // negative
	k.answers.Write(answer)
	return len(request), nil
}

func (k *withoutNftables) Read(b []byte) (int, error) { return k.answers.Read(b) }
func (k *withoutNftables) Close() error               { return nil }

// Without nftables there is no fence, and without a fence no proxy.
func TestKernelWithoutNftables(t *testing.T) {
	rules := nft.New(Quiet, TestConfig)
	rules.Use(&ruleset.Conn{Conn: &netlink.Conn{Socket: &withoutNftables{}}})
	_, err := begin(t.Context(), Quiet, TestConfig, rules, "auto")
	if err == nil || !strings.Contains(err.Error(), "CONFIG_NF_TABLES") {
		t.Errorf("error %v", err)
	}
}

// INPUT may have thousands of rules: they are read when somebody else has changed something, and not for our own changes.
func TestInputIsReadAgainOnlyAfterOthers(t *testing.T) {
	EnterNamespace(t)
	m := Machines[2]
	m.LoadForeign(t)
	b := open(t, m)
	Bind(t, b, Personal)
	var kernel *Tapped
	Must(t, b.(*ipt.Backend).Converse(t.Context(), func(conn *ruleset.Conn) error {
		kernel = Tap(conn)
		return nil
	}))
	for _, want := range [][]firewall.Binding{{Personal, Social}, {Social}, {Social}, {Personal}} {
		Bind(t, b, want...)
		if asked := kernel.Asked(); strings.Contains(asked, "other") {
			t.Errorf("asked for %s", asked)
		}
	}
	m.Shell(t, "iptables -I INPUT -j DROP")
	Bind(t, b, Personal, Social)
	if asked := kernel.Asked(); !strings.Contains(asked, "other") {
		t.Errorf("asked for %s", asked)
	}
	if rules := m.IptablesRules(t); !strings.Contains(rules, "ACCEPT\n-A INPUT -j DROP\n") {
		t.Errorf("not put back:\n%s", rules)
	}
}
