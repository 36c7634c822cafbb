package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/await"
	"vifproxy/internal/lab"
	"vifproxy/internal/resolvconf"
)

// A look-up that is under way asks the name servers that resolv.conf had when it began. So they stay open for a while.
func TestFormerNameServers(t *testing.T) {
	onBoth(t, func(s *site) {
		open := func() (first, second bool) {
			s.Helper()
			_, fence, _ := strings.Cut(s.ruleset(), "inet vifproxy")
			return strings.Contains(fence, "10.139.1.1"), strings.Contains(fence, "10.139.1.2")
		}
		s.resolvers("nameserver 10.139.1.1\noptions attempts:5\n")
		s.rules("work.10.137.0.11", bank)
		s.attach("work", "10.137.0.11")
		s.start()
		s.until("there is one name server", func() error {
			if first, second := open(); !first || second {
				return fmt.Errorf("open are 10.139.1.1: %v, 10.139.1.2: %v", first, second)
			}
			return nil
		})

		// The first answers are lost, so the look-up asks again after 5 s.
		s.inFirewall("nft", "add table ip other; add chain ip other in { type filter hook prerouting priority -300; }; "+
			"add rule ip other in ip saddr 10.139.1.1 counter drop")
		got := make(chan lab.Result, 1)
		go func() { got <- s.Get("work", "http://bank.example/") }()
		s.until("10.139.1.1 is asked", func() error {
			if rules := s.inFirewall("nft", "list table ip other"); strings.Contains(rules, "packets 0 ") {
				return fmt.Errorf("%s", rules)
			}
			return nil
		})
		s.resolvers("nameserver 10.139.1.2\n")
		s.until("the other name server is open", func() error {
			if _, second := open(); !second {
				return fmt.Errorf("it is not")
			}
			return nil
		})
		s.inFirewall("nft", "delete table ip other")
		if r := await.Value(s.T, "the page", got); r.Status != 200 {
			t.Errorf("the look-up that was under way: %+v", r)
		}
		s.opens("work", "http://bank.example/")
		s.until("the former name server is closed", func() error {
			if first, _ := open(); first {
				return fmt.Errorf("it is open")
			}
			return nil
		})
		s.opens("work", "http://bank.example/")
		s.stop()
	})
}

// One name server that does not answer is not noticed. If none does, hosts that were reached before are reached, and others again when
// one answers.
func TestNameServersThatAreSilent(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", bank, `^shop[0-9]*\.example$`)
		s.start()
		s.attach("work", "10.137.0.11")
		s.opens("work", "http://bank.example/")
		s.inFirewall("nft", "add table ip other; add chain ip other in { type filter hook prerouting priority -300; }; "+
			"add rule ip other in iifname != lo ip saddr 10.139.1.1 udp sport 53 drop")
		for i := range 5 {
			s.opens("work", fmt.Sprintf("http://shop%d.example/", i))
		}
		s.inFirewall("nft", "add rule ip other in iifname != lo ip saddr 10.139.1.2 udp sport 53 counter drop")
		s.until("an answer is too old, and another one does not come", func() error {
			s.opens("work", "http://bank.example/")
			if rules := s.inFirewall("nft", "list table ip other"); strings.Contains(rules, "packets 0 ") {
				return fmt.Errorf("nobody was asked:\n%s", rules)
			}
			return nil
		})
		s.opens("work", "http://bank.example/")
		if r := s.Get("work", "http://shop99.example/"); r.Status == 200 {
			t.Errorf("without a name server: %+v", r)
		}
		s.inFirewall("nft", "delete table ip other")
		s.opens("work", "http://shop99.example/")
		s.stop()
	})
}

// Without Landlock the C library of a proxy reads resolv.conf itself. With name servers of IPv6 only, it asks where nobody answers it; the
// remedy that doctor has for that helps, and costs no time.
func TestNameServersOfIPv6Only(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.startWork()
	file := filepath.Join(s.TempDir(), "resolv.conf")
	ask := func(lines string) (string, time.Duration) {
		s.must(os.WriteFile(file, []byte(lines), 0o644))
		uid := fmt.Sprint(workUIDOfProxy)
		ctx, cancel := context.WithTimeout(s.Context(), patience)
		defer cancel()
		began := time.Now()
		out, err := s.Command(ctx, "sh", "-c", `mount --bind "$1" /etc/resolv.conf && exec setpriv --reuid="$2" --clear-groups getent ahosts bank.example`,
			"sh", file, uid).CombinedOutput() // ip has made a mount namespace for it
		return fmt.Sprint(string(out), err), time.Since(began)
	}
	if out, _ := ask("nameserver fd00::1\n"); strings.Contains(out, "198.51.100.") {
		t.Errorf("by IPv6: %s", out)
	}
	if resolvconf.Unasked([]netip.Addr{netip.MustParseAddr("fd00::1")}, true) == nil {
		t.Error("nobody is told")
	}
	_, remedy, _ := strings.Cut(resolvconf.UnaskedRemedy, "`")
	line, _, _ := strings.Cut(remedy, "`")
	out, took := ask("nameserver fd00::1\n" + line + "\n")
	if !strings.Contains(out, "198.51.100.") {
		t.Errorf("with %q: %s", line, out)
	}
	t.Logf("a look-up took %v", took)
	s.stop()
}
