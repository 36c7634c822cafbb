package firewall

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// withIptables runs a test on the machines whose chain INPUT is made with iptables.
func withIptables(t *testing.T, test func(t *testing.T, m machine)) {
	onEach(t, func(t *testing.T, m machine) {
		if m.iptables == "" {
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
			enterNamespace(t)
			m := machines[2]
			m.loadForeign(t)
			a, b := site(t)
			listen(t, gateway+":61000", "a's proxy")
			listen(t, gateway+":61001", "b's proxy")
			rules := func() string { return run(t, "", "nft", "-s", "list", "ruleset") }
			var before string
			strange := func() {
				m.shell(t, native)
				if m.try("iptables -S INPUT") == nil {
					t.Fatal("iptables can list that: it is no test")
				}
			}
			if when == "before" {
				strange()
				before = rules()
			}
			backend := m.open(t)
			bind(t, backend, personal)
			if when == "later" {
				strange()
			}
			if n := bind(t, backend, personal); n != 0 {
				t.Errorf("%d writes with nothing to do", n)
			}
			bind(t, backend, personal, social)
			for _, act := range []string{"true", "iptables -I INPUT -j DROP", "nft flush chain ip filter INPUT; " + native} {
				m.shell(t, act)
				bind(t, backend, personal, social)
				for _, h := range []*host{a, b} {
					if got := h.reach(gateway + ":8100"); !strings.HasSuffix(got, "'s proxy") {
						t.Errorf("after %s: %s", act, got)
					}
				}
			}
			must(t, backend.Remove(t.Context()))
			if got := rules(); strings.Contains(got, "vifproxy") || strings.Contains(got, "dport 61000") {
				t.Errorf("left over:\n%s", got)
			} else if when == "before" {
				m.shell(t, "nft flush ruleset")
				m.loadForeign(t)
				m.shell(t, native)
				if again := rules(); sorted(again) != sorted(before) {
					t.Errorf("this is no test:\n%s", diff(before, again))
				}
			}
		})
	}
}

// try runs commands as shell does, and returns how they end.
func (m machine) try(commands string) error {
	_, err := execute(context.Background(), "", "/bin/sh", "-ec", strings.ReplaceAll(commands, "iptables", m.iptables))
	return err
}

// Whatever is done to the tables of iptables, even for as long as nobody repairs it: nothing that was closed opens.
func TestFlushedIptablesOpenNothing(t *testing.T) {
	saved := t.TempDir() + "/saved"
	withIptables(t, func(t *testing.T, m machine) {
		a, b := site(t)
		listen(t, gateway+":61000", "a's proxy")
		listen(t, gateway+":61001", "b's proxy")
		listen(t, "127.0.0.1:80", "loopback")
		listen(t, gateway+":80", "gateway")
		b.do(func() error { listen(t, b.addr+":80", "b"); return nil })
		backend := m.open(t)
		want := State{Bindings: []Binding{personal}, Guarded: []uint16{61001}, Fence: Fence{Proxies: []Proxy{{UID: personalUID}}}}
		syncState(t, backend, want)
		m.shell(t, "iptables-save > "+saved)
		for _, act := range []string{
			"iptables -F OUTPUT", "iptables -P INPUT ACCEPT; iptables -F INPUT", "iptables -F", "iptables -X",
			"iptables -t nat -F", "iptables-restore < " + saved,
		} {
			m.shell(t, act)
			for _, to := range []string{"127.0.0.1:80", gateway + ":80", b.addr + ":80", gateway + ":61000"} {
				if who := out(t, personalUID, to); who != "refused" {
					t.Errorf("after %s: the proxy to %s: %s", act, to, who)
				}
			}
			for h, to := range map[*host][]string{
				a: {gateway + ":61001"}, b: {gateway + ":8100", gateway + ":61000", gateway + ":61001"},
			} {
				for _, to := range to {
					if who := h.reach(to); who != "closed out" {
						t.Errorf("after %s: %s to %s: %s", act, h.addr, to, who)
					}
				}
			}
			syncState(t, backend, want)
			if who := a.reach(gateway + ":8100"); who != "a's proxy" {
				t.Errorf("after %s, and its repair: %s", act, who)
			}
		}
	})
}

// The admission is for what our nat has translated: a connection that another program translates to a port of the same
// range, and that INPUT refuses, stays refused.
func TestAdmissionIsForOurTranslationsOnly(t *testing.T) {
	withIptables(t, func(t *testing.T, m machine) {
		a, _ := site(t)
		listen(t, gateway+":61000", "a's proxy")
		listen(t, gateway+":63000", "a service")
		bind(t, m.open(t), personal)
		m.shell(t, "nft flush chain ip vifproxy input") // the guard refuses it, too
		m.shell(t, "iptables -t nat -A PREROUTING -p tcp --dport 9000 -j DNAT --to-destination "+gateway+":63000")
		for to, want := range map[string]string{"8100": "a's proxy", "9000": "closed out", "63000": "closed out"} {
			if who := a.reach(gateway + ":" + to); who != want {
				t.Errorf("port %s: %s, want %s", to, who, want)
			}
		}
	})
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
		withIptables(t, func(t *testing.T, m machine) {
			m.kind = kind
			m.shell(t, m.users())
			before := sorted(m.rules(t))
			m.shell(t, oldRules)
			backend := m.open(t)
			if got := m.iptablesRules(t); strings.Contains(got, "-N VIFPROXY") || strings.Contains(got, "-j VIFPROXY\n") {
				t.Errorf("%s: left over:\n%s", kind, got)
			}
			must(t, backend.Remove(t.Context()))
			if got := sorted(m.rules(t)); got != before {
				t.Errorf("%s: after Remove:\n%s", kind, diff(before, got))
			}
		})
	}
}

func TestRulesOfOlderVersionsGoBesideNativeOnes(t *testing.T) {
	enterNamespace(t)
	m := machines[2]
	m.loadForeign(t)
	m.shell(t, oldRules+native)
	m.shell(t, "iptables -A FORWARD -j VIFPROXY-NO") // this one cannot go, which must not keep the others
	var log bytes.Buffer
	_, err := Open(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), "auto", testConfig)
	must(t, err)
	if !strings.Contains(log.String(), "remove chain VIFPROXY-NO of an older version: device or resource busy") {
		t.Errorf("log: %s", &log)
	}
	if got := run(t, "", "nft", "list", "ruleset"); strings.Count(got, "VIFPROXY") != 2 {
		t.Errorf("want chain VIFPROXY-NO, and the rule that leads there:\n%s", got)
	}
}

// Both variants of iptables may be there, and a packet passes both.
func TestBothVariantsAtOnce(t *testing.T) {
	enterNamespace(t)
	a, b := site(t)
	listen(t, gateway+":61000", "a's proxy")
	for _, m := range machines[2:] {
		m.loadForeign(t)
	}
	before := machines[2].iptablesRules(t) + machines[3].iptablesRules(t)
	backend := machines[2].open(t)
	bind(t, backend, personal)
	if who := a.reach(gateway + ":8100"); who != "a's proxy" {
		t.Error(who)
	}
	if who := b.reach(gateway + ":8100"); who != "closed out" {
		t.Error(who)
	}
	must(t, backend.Remove(t.Context()))
	if after := machines[2].iptablesRules(t) + machines[3].iptablesRules(t); after != before {
		t.Error(diff(before, after))
	}
}

// While another iptables-legacy holds the lock of all of them, a Sync waits; who has something newer to write need not.
func TestWaitForTheLockIsPutOff(t *testing.T) {
	enterNamespace(t)
	m := machines[3]
	m.loadForeign(t)
	backend := m.open(t)
	lock, err := os.OpenFile("/run/xtables.lock", os.O_CREATE|os.O_RDONLY, 0o600)
	must(t, err)
	defer lock.Close()
	must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := backend.Sync(ctx, State{Bindings: []Binding{personal}}, cancel); err == nil {
		t.Error("it did not wait")
	}
	if !slices.ContainsFunc(strings.Split(run(t, "", "nft", "list", "map", "ip", "vifproxy", "ports"), "\n"),
		func(l string) bool { return strings.Contains(l, "10.137.0.11") }) {
		t.Error("the binding is not in force")
	}
	must(t, unix.Flock(int(lock.Fd()), unix.LOCK_UN))
	bind(t, backend, personal)
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
	nft := &nftBackend{log: quiet, cfg: testConfig}
	nft.conn = &ruleset{socket: io.ReadWriteCloser(&withoutNftables{}), buf: make([]byte, 64<<10)}
	_, err := begin(t.Context(), nft, "auto")
	if err == nil || !strings.Contains(err.Error(), "CONFIG_NF_TABLES") {
		t.Errorf("error %v", err)
	}
}

// INPUT may have thousands of rules: they are read when somebody else has changed something, and not for our own changes.
func TestInputIsReadAgainOnlyAfterOthers(t *testing.T) {
	enterNamespace(t)
	m := machines[2]
	m.loadForeign(t)
	b := m.open(t)
	bind(t, b, personal)
	kernel := tap(b.(*iptBackend).nftBackend)
	for _, want := range [][]Binding{{personal, social}, {social}, {social}, {personal}} {
		bind(t, b, want...)
		if asked := kernel.asked(); strings.Contains(asked, "other") {
			t.Errorf("asked for %s", asked)
		}
	}
	m.shell(t, "iptables -I INPUT -j DROP")
	bind(t, b, personal, social)
	if asked := kernel.asked(); !strings.Contains(asked, "other") {
		t.Errorf("asked for %s", asked)
	}
	if rules := m.iptablesRules(t); !strings.Contains(rules, "ACCEPT\n-A INPUT -j DROP\n") {
		t.Errorf("not put back:\n%s", rules)
	}
}
