package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

func TestChoice(t *testing.T) {
	for _, test := range []struct {
		name, kind string
		on         Machine
		want       string // in the log or in the error
	}{
		{"R4.2", "auto", Machines[0], `backend=nftables why="table ip qubes has the chain`},
		{"R4.1", "auto", Machines[2], `backend=iptables why="iptables has a chain INPUT`},
		{"R4.1, legacy", "auto", Machines[3], `backend=iptables why="iptables has a chain INPUT`},
		{"neither", "auto", Machines[1], "using only our own tables"},
		{"forced nftables", "nftables", Machines[2], "using only our own tables"},
		{"forced iptables", "iptables", Machines[0], `backend=iptables why="asked for"`},
		{"unknown", "ufw", Machines[0], `unknown backend "ufw" (use auto, nftables or iptables)`},
	} {
		t.Run(test.name, func(t *testing.T) {
			EnterNamespace(t)
			test.on.LoadForeign(t)
			var log bytes.Buffer
			b, err := Open(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), test.kind, TestConfig)
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
	EnterNamespace(t)
	Machines[0].LoadForeign(t)
	t.Setenv("PATH", "/nowhere")
	InNamespace(t)
	b, err := Open(t.Context(), Quiet, "auto", TestConfig)
	if err != nil || b.String() != "nftables" {
		t.Errorf("%v, %v", b, err)
	}
}

// A firewall VM whose rules are just being loaded anew looks like another one.
func TestRulesOfTheMachineComeLate(t *testing.T) {
	for _, m := range Machines {
		t.Run(m.Name, func(t *testing.T) {
			EnterNamespace(t)
			b, err := Open(t.Context(), Quiet, "auto", TestConfig)
			if err != nil || b.String() != "nftables" {
				t.Fatal(b, err)
			}
			Bind(t, b, Personal)
			m.LoadForeign(t)
			Bind(t, b, Personal)
			got := Sorted(m.Rules(t))
			if b.String() != m.Kind {
				t.Errorf("backend is %s", b)
			}
			if n := Bind(t, b, Personal); n != 0 {
				t.Errorf("%d writes where nothing differs", n)
			}
			Must(t, b.Remove(t.Context()))

			// The same as if they had been there from the beginning.
			if b, err = Open(t.Context(), Quiet, "auto", TestConfig); err != nil {
				t.Fatal(err)
			}
			Bind(t, b, Personal)
			if want := Sorted(m.Rules(t)); got != want {
				t.Errorf("rules:\n%s", Diff(want, got))
			}
		})
	}
}

// Whatever kind a daemon that crashed has used, the next one's Open leaves no binding of it.
func TestLeftovers(t *testing.T) {
	for _, m := range Machines {
		for _, kinds := range [][2]string{
			{"nftables", "nftables"}, {"iptables", "iptables"}, {"nftables", "iptables"}, {"iptables", "nftables"},
		} {
			t.Run(fmt.Sprint(m.Name, kinds), func(t *testing.T) {
				EnterNamespace(t)
				m.LoadForeign(t)
				before := m.Rules(t)
				next := m
				m.Kind, next.Kind = kinds[0], kinds[1]
				b := open(t, next)
				want := Sorted(m.Rules(t))
				Must(t, b.Remove(t.Context()))
				if got := m.Rules(t); got != before {
					t.Errorf("after Remove:\n%s", Diff(before, got))
				}
				Bind(t, open(t, m), Personal, Social)
				b = open(t, next)
				if got := Sorted(m.Rules(t)); got != want {
					t.Errorf("after Open:\n%s", Diff(want, got))
				}
				if n := Bind(t, b); n != 0 {
					t.Errorf("%d writes after Open", n)
				}
			})
		}
	}
}

func TestConfigRefused(t *testing.T) {
	config := func(port, first, last uint16, firstUID, lastUID uint32) firewall.Config {
		return firewall.Config{ProxyPort: port, FirstPort: first, LastPort: last, FirstUID: firstUID, LastUID: lastUID}
	}
	for _, cfg := range []firewall.Config{
		{}, config(8100, 0, 64999, 1, 2), config(8100, 61000, 60999, 1, 2),
		config(0, 61000, 64999, 1, 2), config(61000, 61000, 64999, 1, 2), config(64999, 61000, 64999, 1, 2),
		config(8100, 61000, 64999, 0, 2), config(8100, 61000, 64999, 2, 1), config(8100, 61000, 64999, 1, 2),
	} {
		_, err := Open(t.Context(), Quiet, "auto", cfg)
		if err == nil || !strings.Contains(err.Error(), ": need ") {
			t.Errorf("%v: %v", cfg, err)
		}
	}
}

// A binding that cannot be keeps all of them from being written.
func TestBindingRefused(t *testing.T) {
	edit := func(change func(*firewall.Binding)) firewall.Binding {
		b := Social
		change(&b)
		return b
	}
	vif := func(name string) firewall.Binding { return edit(func(b *firewall.Binding) { b.Vif = name }) }
	addr := func(a netip.Addr) firewall.Binding { return edit(func(b *firewall.Binding) { b.Addr = a }) }
	to := func(a netip.Addr, port uint16) firewall.Binding {
		return edit(func(b *firewall.Binding) { b.To = netip.AddrPortFrom(a, port) })
	}
	six, mapped := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("::ffff:10.0.0.1")
	ours := Social.To.Addr()
	OnEach(t, func(t *testing.T, m Machine) {
		b := open(t, m)
		before := m.Rules(t)
		for _, bad := range []firewall.Binding{
			vif(""), vif("vif1234567890.01"), vif("vif+"), vif("vif*"), vif("-j"), vif("a b"), vif("a\"b"),
			vif("a\n"), vif("..\x00"),
			addr(netip.Addr{}), addr(six), addr(mapped), addr(netip.IPv4Unspecified()),
			to(netip.Addr{}, 61000), to(six, 61000), to(mapped, 61000), to(netip.IPv4Unspecified(), 61000),
			to(ours, 0), to(ours, 60999), to(ours, 65000), to(ours, 8100), Personal,
		} {
			if n, err := b.Sync(t.Context(), firewall.State{Bindings: []firewall.Binding{Personal, bad}}, func() {}); err == nil || n != 0 {
				t.Errorf("%q: %d writes, error %v", bad, n, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if n, err := b.Sync(ctx, firewall.State{Bindings: []firewall.Binding{Personal}}, func() {}); !errors.Is(err, context.Canceled) || n != 0 {
			t.Errorf("cancelled: %d writes, error %v", n, err)
		}
		if got := m.Rules(t); got != before {
			t.Errorf("rules changed:\n%s", Diff(before, got))
		}
		Bind(t, b, Personal)
	})
}
