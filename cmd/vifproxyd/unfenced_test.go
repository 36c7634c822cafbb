package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/lab"
)

// workUID is that of work's proxy: 0x70000000 and the last three bytes of 10.137.0.11.
const workUID = 0x7089000b

// passesFence reports whether a proxy's uid gets a connection to a web server of the firewall VM, which the fence refuses.
func (s *site) passesFence() (passes bool) {
	s.Helper()
	s.must(s.Do(func() error {
		if err := unix.Setfsuid(workUID); err != nil { // whose socket it is (nft_meta.c: f_cred->fsuid); of this thread alone
			return err
		}
		defer unix.Setfsuid(0) //nolint:errcheck // back to what it was
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		passes = unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, 1}}) == nil
		return nil
	}))
	return passes
}

// fence is the table of it, as text; "" if there is none.
func (s *site) fence() string {
	s.Helper()
	_, fence, _ := strings.Cut(s.ruleset(), "table inet vifproxy {")
	fence, _, _ = strings.Cut(fence, "\n}\n")
	return sorted(fence)
}

// insider has a site with work, whose list names what is in the firewall VM and in the LAN. The requests go on until end,
// which returns how many there were, and how many got a page from inside.
func (s *site) insider() (end func() (asked, got int64)) {
	s.Helper()
	patterns := []string{bank}
	inner := []string{"loopback.example", "gateway.example", "lan.example"}
	for _, name := range inner {
		s.Host(name, netip.MustParseAddr(resolvesTo[name]))
		patterns = append(patterns, "^"+strings.ReplaceAll(name, ".", `\.`)+"$")
	}
	s.rules("work.10.137.0.11", patterns...)
	s.attach("work", "10.137.0.11")
	s.attach("other", "10.137.0.12")
	s.start()
	s.inside()
	s.opens("work", "http://bank.example/")
	var running sync.WaitGroup
	var asked, got atomic.Int64
	stop := make(chan struct{})
	for i := range 6 { // tinyproxy itself waits a second before it tells of a failure
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				asked.Add(1)
				if r := s.Get("work", "http://"+inner[i%len(inner)]+"/"); r.Status == 200 {
					got.Add(1)
				}
			}
		})
	}
	return func() (int64, int64) {
		close(stop)
		running.Wait()
		return asked.Load(), got.Load()
	}
}

// TestBrokenFenceIsRestoredAtOnce: each time that somebody breaks it, by what the kernel tells of it. The next look that
// nobody asks for comes after slowLook, ten times as late as what is waited for here. That no time passes before the
// repair, TestFenceThatSomebodyKeepsBreaking of the supervisor holds.
func TestBrokenFenceIsRestoredAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	end := s.insider()
	intact := s.fence()
	for _, command := range []string{"flush chain inet vifproxy egress", "flush table inet vifproxy", "delete table inet vifproxy",
		"flush chain inet vifproxy output", "flush ruleset"} {
		passed := 0
		for i := range 8 {
			s.inFirewall("nft", strings.Fields(command)...)
			s.until(fmt.Sprintf("%q is undone, the time number %d", command, i+1), func() error {
				if s.passesFence() {
					passed++
				}
				if now := s.fence(); now != intact {
					return fmt.Errorf("now:\n%s\nbefore:\n%s", now, intact)
				}
				return nil
			})
			if s.passesFence() {
				t.Errorf("%s: open when it was undone", command)
			}
			if i%4 == 3 { // more often it is a fight
				time.Sleep(time.Second)
			}
		}
		if command == "flush ruleset" {
			s.must(s.LoadRules(t.Context()))
		}
		t.Logf("%s: %d connections came through before it was undone", command, passed)
	}
	asked, got := end()
	t.Logf("%d of %d requests of the AppVM got a page from inside", got, asked)
	s.until("the bank's page opens", func() error { return s.page("work", "http://bank.example/") })
	s.stop()
}

// TestFenceThatIsBrokenAgainAndAgain ends the proxies, and they come back by themselves.
func TestFenceThatIsBrokenAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.startWork()
	told := s.watch()
	s.untilTold(told, 0, "itself", named(events.Watching))
	ctx, cancel := context.WithCancel(t.Context())
	var fight sync.WaitGroup
	fight.Go(func() {
		table := &nftables.Table{Name: "vifproxy", Family: nftables.TableFamilyINet}
		s.undoes(ctx, &nftables.Chain{Table: table, Name: "egress"})
	})
	defer fight.Wait()
	defer cancel()
	s.until("its proxy is ended", func() error {
		if vm := s.show()["work"]; vm.State != control.Failed || !strings.HasPrefix(vm.Error, "firewall: the fence around proxies") {
			return fmt.Errorf("%+v", vm)
		}
		if pids := s.proxies(); len(pids) > 1 { // one waits for the next start
			return fmt.Errorf("proxies %v", pids)
		}
		if !s.daemon.hasTold("STATUS=AppVMs: 1 failed; work: firewall: ") {
			return errors.New("systemd was not told")
		}
		return nil
	})
	cancel()
	s.untilTold(told, 1, "the fence is down", func(e events.Event) bool { return e.Event == "unfenced" && e.Err != "" })
	s.until("the bank's page opens", func() error {
		if vm := s.untilState("work", control.Running); vm.Error != "" {
			return errors.New(vm.Error)
		}
		return s.page("work", "http://bank.example/")
	})
	s.stop()
}
