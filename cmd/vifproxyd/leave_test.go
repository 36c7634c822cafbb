package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/lab"
)

// byUplink is how many packets of proxies have left by eth0.
func (s *site) byUplink() (n int) {
	s.Helper()
	text := s.inFirewall("nft", "list", "chain", "inet", "probe", "out")
	for _, m := range regexp.MustCompile(`packets (\d+)`).FindAllStringSubmatch(text, -1) {
		packets, err := strconv.Atoi(m[1])
		s.must(err)
		n += packets
	}
	return n
}

// tunnelUp makes wg0 a way out besides eth0, and the better one; when it is down, the route by eth0 is left, as with a VPN.
func (s *site) tunnelUp() {
	s.Helper()
	s.inFirewall("ip", "link", "set", "wg0", "up")
	s.inFirewall("ip", "route", "replace", "default", "via", "192.0.3.1", "metric", "0")
	s.until("wg0 carries", func() error {
		if text := s.inFirewall("ip", "route", "get", "198.51.100.9"); !strings.Contains(text, "dev wg0") {
			return fmt.Errorf("%s", text)
		}
		return nil
	})
}

// withTunnel is a site whose second way out is wg0, with work and its proxy.
func withTunnel(t *testing.T, flags ...string) *site {
	t.Helper()
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", bank)
	s.attach("work", "10.137.0.11")
	s.inFirewall("ip", "link", "add", "wg0", "type", "veth", "peer", "name", "peer", "netns", s.Name+"-net")
	s.inFirewall("ip", "addr", "add", "192.0.3.2/24", "dev", "wg0")
	s.must(s.DoInternet(func() error {
		for _, command := range []string{"ip addr add 192.0.3.1/24 dev peer", "ip link set peer up"} {
			words := strings.Fields(command)
			if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", command, err, out)
			}
		}
		return nil
	}))
	s.inFirewall("ip", "route", "del", "default")
	s.inFirewall("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "eth0", "metric", "100")
	s.tunnelUp()
	s.inFirewall("nft", "add", "table", "inet", "probe")
	s.inFirewall("nft", "add", "chain", "inet", "probe", "out", "{ type filter hook postrouting priority 300; }")
	s.inFirewall("nft", "add", "rule", "inet", "probe", "out", "oifname", "eth0", "meta", "skuid", "1879048192-1912602623", "counter")
	s.start(flags...)
	return s
}

// silent checks that a request fails and that nothing of it leaves by eth0.
func (s *site) silent() {
	s.Helper()
	before := s.byUplink()
	for range 3 {
		if r := s.Get("work", "http://bank.example/"); r.Status == 200 {
			s.Error("a page was served past the tunnel")
		}
	}
	time.Sleep(100 * time.Millisecond) // what is sent again
	if n := s.byUplink() - before; n != 0 {
		s.Errorf("%d packets of the proxy left by eth0", n)
	}
}

// TestKillSwitchHoldsForProxies: what stops AppVMs stops their proxies, and their questions for names.
func TestKillSwitchHoldsForProxies(t *testing.T) {
	t.Parallel()
	s := withTunnel(t)
	s.opens("work", "http://bank.example/")
	s.inFirewall("nft", "add", "rule", "ip", "qubes", "custom-forward", "oifname", "eth0", "drop")
	barred := func(want bool) {
		t.Helper()
		s.until("show says by what proxies may not leave", func() error {
			_, stderr, _ := s.ctl("show")
			if is := strings.Contains(stderr, "may not leave by eth0") && strings.Contains(stderr, "table ip qubes, chain custom-forward, rule "); is != want {
				return fmt.Errorf("%s", stderr)
			}
			return nil
		})
	}
	barred(true)
	s.opens("work", "http://bank.example/")
	for range 2 {
		s.inFirewall("ip", "link", "set", "wg0", "down")
		s.silent()
		if said := s.on(1, "explain", "work", "http://198.51.100.9/"); !strings.Contains(said, "eth0") {
			t.Errorf("explain: %s", said)
		}
		s.tunnelUp()
		s.opens("work", "http://bank.example/")
	}

	// An interface that comes is barred by what is said of all but one, at once.
	s.inFirewall("nft", "flush", "chain", "ip", "qubes", "custom-forward")
	s.inFirewall("nft", "add", "rule", "ip", "qubes", "custom-forward", "oifname", "!=", "wg0", "drop")
	barred(true)
	s.inFirewall("ip", "link", "set", "wg0", "down")
	s.silent()

	// And with the rule the bar goes.
	s.inFirewall("nft", "flush", "chain", "ip", "qubes", "custom-forward")
	barred(false)
	s.opens("work", "http://bank.example/")
	if s.byUplink() == 0 {
		t.Error("nothing is counted: then it is not the bar that was tested")
	}
	s.stop()
}

// TestEgressInterface: a person says by which interfaces proxies leave.
func TestEgressInterface(t *testing.T) {
	t.Parallel()
	s := withTunnel(t, "--egress-interface=wg0")
	s.opens("work", "http://bank.example/")
	s.inFirewall("ip", "link", "set", "wg0", "down")
	s.silent()
	s.tunnelUp()
	s.opens("work", "http://bank.example/")
	s.stop()
}
