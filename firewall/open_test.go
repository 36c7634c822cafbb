package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

func TestChoice(t *testing.T) {
	for _, test := range []struct {
		name, kind string
		on         machine
		want       string // in the log or in the error
	}{
		{"R4.2", "auto", machines[0], `backend=nftables why="table ip qubes has the chain`},
		{"R4.1", "auto", machines[2], `backend=iptables why="iptables has a chain INPUT`},
		{"R4.1, legacy", "auto", machines[3], `backend=iptables why="iptables has a chain INPUT`},
		{"neither", "auto", machines[1], "using only our own tables"},
		{"forced nftables", "nftables", machines[2], "using only our own tables"},
		{"forced iptables", "iptables", machines[0], `backend=iptables why="asked for"`},
		{"unknown", "ufw", machines[0], `unknown backend "ufw" (use auto, nftables or iptables)`},
	} {
		t.Run(test.name, func(t *testing.T) {
			enterNamespace(t)
			test.on.loadForeign(t)
			var log bytes.Buffer
			b, err := Open(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), test.kind, testConfig)
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
	if got := find("iptables-legacy"); got != "/usr/sbin/iptables-legacy" {
		t.Errorf("iptables-legacy: %q", got)
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

// A firewall VM whose rules are just being loaded anew looks like another one.
func TestRulesOfTheMachineComeLate(t *testing.T) {
	for _, m := range machines {
		t.Run(m.name, func(t *testing.T) {
			enterNamespace(t)
			b, err := Open(t.Context(), quiet, "auto", testConfig)
			if err != nil || b.String() != "nftables" {
				t.Fatal(b, err)
			}
			bind(t, b, personal)
			m.loadForeign(t)
			bind(t, b, personal)
			got := sorted(m.rules(t))
			if b.String() != m.kind {
				t.Errorf("backend is %s", b)
			}
			if n := bind(t, b, personal); n != 0 {
				t.Errorf("%d writes where nothing differs", n)
			}
			must(t, b.Remove(t.Context()))

			// The same as if they had been there from the beginning.
			if b, err = Open(t.Context(), quiet, "auto", testConfig); err != nil {
				t.Fatal(err)
			}
			bind(t, b, personal)
			if want := sorted(m.rules(t)); got != want {
				t.Errorf("rules:\n%s", diff(want, got))
			}
		})
	}
}

// Whatever kind a daemon that crashed has used, the next one's Open leaves no binding of it.
func TestLeftovers(t *testing.T) {
	for _, m := range machines {
		for _, kinds := range [][2]string{
			{"nftables", "nftables"}, {"iptables", "iptables"}, {"nftables", "iptables"}, {"iptables", "nftables"},
		} {
			t.Run(fmt.Sprint(m.name, kinds), func(t *testing.T) {
				enterNamespace(t)
				m.loadForeign(t)
				before := m.rules(t)
				next := m
				m.kind, next.kind = kinds[0], kinds[1]
				b := next.open(t)
				want := sorted(m.rules(t))
				must(t, b.Remove(t.Context()))
				if got := m.rules(t); got != before {
					t.Errorf("after Remove:\n%s", diff(before, got))
				}
				bind(t, m.open(t), personal, social)
				b = next.open(t)
				if got := sorted(m.rules(t)); got != want {
					t.Errorf("after Open:\n%s", diff(want, got))
				}
				if n := bind(t, b); n != 0 {
					t.Errorf("%d writes after Open", n)
				}
			})
		}
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
		bind(t, b, personal)
	})
}
