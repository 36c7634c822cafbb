package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"vifproxy/internal/lab"
)

// TestFlushesOfIptablesOpenNothing has clients try what is closed, over and over, while another program does to the tables
// of iptables what such programs do.
func TestFlushesOfIptablesOpenNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R41)
	patterns := []string{bank}
	for name, addr := range resolvesTo {
		s.Host(name, netip.MustParseAddr(addr))
		patterns = append(patterns, "^"+strings.ReplaceAll(name, ".", `\.`)+"$")
	}
	s.rules("work.10.137.0.11", patterns...)
	s.start()
	s.attach("work", "10.137.0.11")
	s.attach("other", "10.137.0.12") // which has no proxy
	s.inside()
	s.opens("work", "http://bank.example/")

	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	tries := make([]int, len(resolvesTo)+1)
	for i, page := range pages("http") {
		clients.Go(func() {
			for ; ctx.Err() == nil; tries[i]++ {
				if r := s.Fetch(ctx, "work", "", page); r.Status == 200 {
					t.Errorf("open: %s: %.100q", page, r.Body)
				}
			}
		})
	}
	clients.Go(func() {
		for ; ctx.Err() == nil; tries[len(resolvesTo)]++ {
			if conn, err := s.Dial(ctx, "other", "tcp", fmt.Sprintf("%s:%d", lab.Gateway, lab.ProxyPort)); err == nil {
				conn.Close()
				t.Error("open: the proxy port for an AppVM without a proxy")
			}
		}
	})
	const restore = "iptables-restore <$f; rm $f"
	for _, act := range []string{"-F OUTPUT", "-F INPUT", "-F", "-t nat -F", "-t nat -F; iptables -X; iptables -t raw -F", "-P INPUT ACCEPT"} {
		for range 5 {
			s.inFirewall("sh", "-ec", "f=$(mktemp); iptables-save >$f; iptables "+act+"; sleep 0.05; "+restore)
			s.opens("work", "http://bank.example/")
		}
	}
	cancel()
	clients.Wait()
	for i, n := range tries {
		if n < 2 {
			t.Errorf("client %d tried %d times: that shows nothing", i, n)
		}
	}
	s.stop()
}

// native has rules of nft, which iptables cannot list, in the tables of iptables.
func (s *site) native() {
	s.Helper()
	s.inFirewall("nft", "add set ip filter mine { type ipv4_addr; elements = { 192.0.2.77 }; };"+
		"add rule ip filter INPUT ip saddr @mine drop; add rule ip filter INPUT meta skuid 77 ct state new drop;"+
		"add rule ip nat PREROUTING ct state new meta cgroup 77 accept")
	if out, err := s.Command(s.Context(), "iptables", "-S", "INPUT").CombinedOutput(); err == nil {
		s.Fatalf("iptables can list that, so that it shows nothing:\n%s", out)
	}
}

// TestNativeRulesBesideIptables has them there before the start, while the daemon runs, at its end and for --clean.
func TestNativeRulesBesideIptables(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R41)
	s.rules("work.10.137.0.11", bank)
	s.rules("play.10.137.0.12", bank)
	s.attach("work", "10.137.0.11")
	s.native()
	s.start()
	s.opens("work", "http://bank.example/")
	if problems, _, _ := s.ctl("show"); strings.Contains(problems, "iptables:") {
		t.Errorf("show: %s", problems)
	}
	s.crash()
	out, err := s.clean()
	for line := range strings.Lines(out) {
		// The kernel has told the proxy to end, which takes a moment on a busy machine.
		dying := strings.Contains(line, "ended proxies that an earlier run had left")
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") && !dying {
			err = errors.Join(err, errors.New(line))
		}
	}
	s.must(err)
	s.nothingLeft()

	s.must(s.LoadRules(t.Context()))
	s.start()
	s.opens("work", "http://bank.example/")
	s.native()
	s.attach("play", "10.137.0.12")
	s.opens("play", "http://bank.example/")
	s.inFirewall("iptables", "-I", "INPUT", "-i", "vif+", "-j", "DROP")
	s.opens("play", "http://bank.example/")
	s.stop()
}
