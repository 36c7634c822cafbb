package firewall

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

func TestChoice(t *testing.T) {
	const nft, legacy = "/usr/sbin/nft", "/usr/sbin/iptables-legacy"
	for _, test := range []struct {
		name, kind string
		qubes      bool
		have       tools
		want       string // in the log or in the error
	}{
		{"R4.2", "auto", true, tools{nft, legacy}, `backend=nftables why="table ip qubes has the chain`},
		{"R4.2 without nft", "auto", true, tools{"", legacy}, "install the package nftables"},
		{"R4.1", "auto", false, tools{nft, legacy}, `backend=iptables why="there is no table ip qubes`},
		{"no iptables", "auto", false, tools{nft, ""}, `backend=nftables why="iptables is not installed"`},
		{"no nft", "auto", false, tools{"", legacy}, `backend=iptables`},
		{"neither", "auto", false, tools{}, "neither nft nor iptables is installed"},
		{"forced nftables", "nftables", false, tools{nft, legacy}, "using only our own table"},
		{"forced nftables without nft", "nftables", false, tools{"", legacy}, "install the package nftables"},
		{"forced iptables", "iptables", true, tools{nft, legacy}, `backend=iptables why="asked for"`},
		{"forced iptables without it", "iptables", true, tools{nft, ""}, "install the package iptables"},
		{"unknown", "ufw", true, tools{nft, legacy}, `unknown backend "ufw" (use auto, nftables or iptables)`},
		{"broken iptables", "iptables", true, tools{nft, "/bin/false"}, "iptables: "},
		{"broken iptables not needed", "nftables", true, tools{nft, "/bin/false"}, "cannot look for leftovers"},
		{"broken nft", "nftables", true, tools{"/bin/false", legacy}, "load rules with /bin/false: exit status 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			enterNamespace(t)
			if test.qubes {
				machines[0].loadForeign(t)
			}
			var log bytes.Buffer
			b, err := open(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), test.kind, testConfig, test.have)
			if got := log.String(); err != nil {
				got = err.Error()
				if !strings.Contains(got, test.want) {
					t.Errorf("error %q does not contain %q", got, test.want)
				}
			} else if !strings.Contains(got, test.want) || !strings.Contains(got, "backend="+b.String()) {
				t.Errorf("log does not contain %q:\n%s", test.want, got)
			}
		})
	}
}

// Open finds the programs of this machine.
func TestFind(t *testing.T) {
	enterNamespace(t)
	machines[0].loadForeign(t)
	t.Setenv("PATH", "/nowhere")
	for _, name := range []string{"nft", "iptables"} {
		if got := find(name); got != "/usr/sbin/"+name {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := find("nosuchprogram"); got != "" {
		t.Errorf("found %q", got)
	}
	inNamespace(t)
	b, err := Open(t.Context(), quiet, "auto", testConfig)
	if err != nil || b.String() != "nftables" {
		t.Errorf("%v, %v", b, err)
	}
}

// A firewall VM whose rules are just being loaded anew looks like one of R4.1.
func TestTableOfQubesComesLate(t *testing.T) {
	enterNamespace(t)
	have := tools{"/usr/sbin/nft", "/usr/sbin/iptables-legacy"}
	b, err := open(t.Context(), quiet, "auto", testConfig, have)
	if err != nil || b.String() != "iptables" {
		t.Fatal(b, err)
	}
	sync(t, b, personal)
	machines[0].loadForeign(t)
	sync(t, b, personal)
	got := machines[0].rules(t)
	if b.String() != "nftables" {
		t.Errorf("backend is %s", b)
	}
	if old := (machine{tools: tools{iptables: have.iptables}}).rules(t); strings.Contains(old, "VIFPROXY") {
		t.Errorf("rules of iptables are left:\n%s", old)
	}
	if n := sync(t, b, personal); n != 0 {
		t.Errorf("%d writes where nothing differs", n)
	}
	must(t, b.Remove(t.Context()))

	// The same as if it had been there from the beginning.
	if b, err = open(t.Context(), quiet, "auto", testConfig, have); err != nil {
		t.Fatal(err)
	}
	sync(t, b, personal)
	if want := machines[0].rules(t); got != want {
		t.Errorf("rules:\n%s", diff(want, got))
	}
}

// Whatever backend a daemon that crashed has used, the next one's Open leaves no binding of it.
func TestLeftovers(t *testing.T) {
	const legacy = "/usr/sbin/iptables-legacy"
	nft := machine{"", "nftables", tools{"/usr/sbin/nft", legacy}, ""}
	ipt := machine{"", "iptables", tools{"", legacy}, ""} // not even nft is needed to remove its rules
	for _, test := range []struct {
		name      string
		old, next machine
		has       string // of next
	}{
		{"nftables twice", nft, nft, ""},
		{"iptables twice", ipt, ipt, ""},
		{"nftables then iptables", nft, ipt, ""},
		{"iptables then nftables", ipt, nft, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			all := func() string { return nft.rules(t) + ipt.rules(t) }
			enterNamespace(t)
			machines[0].loadForeign(t)
			m := machine{tools: ipt.tools, foreign: "qubes-r4.1.iptables"}
			m.loadForeign(t)
			before := all()
			b := test.next.open(t)
			want := all()
			must(t, b.Remove(t.Context()))
			if got := all(); got != before {
				t.Errorf("after Remove:\n%s", diff(before, got))
			}
			sync(t, test.old.open(t), personal, social)
			b = test.next.open(t)
			if got := all(); got != want {
				t.Errorf("after Open:\n%s", diff(want, got))
			}
			if n := sync(t, b); n != 0 {
				t.Errorf("%d writes after Open", n)
			}
		})
	}
}

func TestConfigRefused(t *testing.T) {
	for _, cfg := range []Config{
		{}, {8100, 0, 64999, 1, 2}, {8100, 61000, 60999, 1, 2},
		{0, 61000, 64999, 1, 2}, {61000, 61000, 64999, 1, 2}, {64999, 61000, 64999, 1, 2},
		{8100, 61000, 64999, 0, 2}, {8100, 61000, 64999, 2, 1},
	} {
		_, err := Open(t.Context(), quiet, "auto", cfg)
		if err == nil || !strings.Contains(err.Error(), "need a ") {
			t.Errorf("%v: %v", cfg, err)
		}
	}
}

// A binding that cannot be keeps all of them from being written.
func TestBindingRefused(t *testing.T) {
	edit := func(change func(*Binding)) Binding {
		b := social
		change(&b)
		return b
	}
	vif := func(name string) Binding { return edit(func(b *Binding) { b.Vif = name }) }
	addr := func(a netip.Addr) Binding { return edit(func(b *Binding) { b.Addr = a }) }
	to := func(a netip.Addr, port uint16) Binding {
		return edit(func(b *Binding) { b.To = netip.AddrPortFrom(a, port) })
	}
	six, mapped := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("::ffff:10.0.0.1")
	ours := social.To.Addr()
	onEach(t, func(t *testing.T, m machine) {
		b := m.open(t)
		before := m.rules(t)
		for _, bad := range []Binding{
			vif(""), vif("vif1234567890.01"), vif("vif+"), vif("vif*"), vif("-j"), vif("a b"), vif("a\"b"),
			vif("a\n"), vif("..\x00"),
			addr(netip.Addr{}), addr(six), addr(mapped), addr(netip.IPv4Unspecified()),
			to(netip.Addr{}, 61000), to(six, 61000), to(mapped, 61000), to(netip.IPv4Unspecified(), 61000),
			to(ours, 0), to(ours, 60999), to(ours, 65000), to(ours, 8100), personal,
		} {
			if n, err := b.Sync(t.Context(), State{Bindings: []Binding{personal, bad}}, func() {}); err == nil || n != 0 {
				t.Errorf("%q: %d writes, error %v", bad, n, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if n, err := b.Sync(ctx, State{Bindings: []Binding{personal}}, func() {}); !errors.Is(err, context.Canceled) || n != 0 {
			t.Errorf("cancelled: %d writes, error %v", n, err)
		}
		if got := m.rules(t); got != before {
			t.Errorf("rules changed:\n%s", diff(before, got))
		}
		sync(t, b, personal)
	})
}
