package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

const echoRule = `^echo\.example$`

// echoes sends a word through a tunnel to the echo server and waits for it to come back.
func echoes(tunnel net.Conn) error {
	if err := tunnel.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprint(tunnel, "hello"); err != nil {
		return err
	}
	word := make([]byte, 5)
	if _, err := io.ReadFull(tunnel, word); err != nil || string(word) != "hello" {
		return fmt.Errorf("got %q, %w", word, err)
	}
	return nil
}

// load fetches permitted pages, one after the other, until the returned function is called, which tells how many were
// fetched. Each is told to beat, if somebody listens. None may fail; on a busy machine one that had been under way
// for longer than the supervisor promises may have been cut because something else was revoked meanwhile.
func (s *site) load(vm string, pages ...string) (beat chan bool, end func() string) {
	promised := 50 * time.Millisecond // grace, in package proxies
	if s.way().Loaded {
		promised = 8 * time.Millisecond
	}
	var done, cut int
	ctx, cancel := context.WithCancel(s.Context())
	var client sync.WaitGroup
	beat = make(chan bool)
	client.Go(func() {
		defer close(beat)
		tick := time.NewTicker(2 * time.Millisecond) // leave some of the machine to others
		defer tick.Stop()
		for ; ctx.Err() == nil; done++ {
			page, begin := pages[done%len(pages)], time.Now()
			switch err, took := s.page(vm, page), time.Since(begin); {
			case err == nil:
			case strings.Contains(s.daemon.log.String(), "event=unfenced"): // a check of the firewall took 2 s on a machine that busy
				cut++
			case took < promised:
				s.Errorf("%s is permitted before and after: %v, after %v", page, err, took)
				return
			default:
				cut++
			}
			select {
			case beat <- true:
			case <-tick.C:
			}
		}
	})
	s.Cleanup(func() { cancel(); client.Wait() })
	return beat, func() string {
		cancel()
		client.Wait()
		return fmt.Sprintf("%d requests, %d of them cut,", done, cut)
	}
}

// inPlace writes a rule file as a shell's > does: it is empty for a moment.
func (s *site) inPlace(file string, lines ...string) {
	s.Helper()
	s.must(writeFile(filepath.Join(s.rulesDir(), file), []byte(strings.Join(append(lines, ""), "\n")), 0o644))
}

func TestTwoHundredEditsUnderLoad(t *testing.T) {
	onBoth(t, func(s *site) {
		const file = "work.10.137.0.11"
		s.rules(file, bank, echoRule)
		s.attach("work", "10.137.0.11")
		s.start()
		s.opens("work", "http://bank.example/", "https://bank.example/")
		beat, end := s.load("work", "http://bank.example/", "https://bank.example/")

		// First additions only, faster than they settle: the tunnel lives through all of them.
		tunnel := s.tunnel("work", "echo.example:443")
		lines := []string{bank, echoRule}
		for i := range 50 {
			lines = append(lines, fmt.Sprintf(`^added%d\.example$`, i))
			s.rules(file, lines...)
			<-beat
			if i%5 == 4 { // of the others, many overlap
				s.opens("work", fmt.Sprintf("http://added%d.example/", i))
			}
		}
		s.must(echoes(tunnel))
		if n := len(s.proxies()); n > 5 { // the serving one, three older ones, one on its way up or down
			s.Errorf("%d processes for one AppVM", n)
		}

		// Then changes of every kind, in both ways of writing, and now and then a tunnel that goes with its host's line.
		var lived []time.Duration
		kinds := [][]string{{bank, shop}, {bank}, {shop, bank}, {bank, `^other\.example$`}}
		for i := range 130 {
			if i%13 == 0 {
				removed := time.Now()
				s.rules(file, bank)
				s.cut(tunnel)
				lived = append(lived, time.Since(removed).Round(time.Millisecond))
			}
			lines := kinds[i%len(kinds)]
			if i%8 < 4 {
				s.rules(file, lines...)
			} else {
				s.inPlace(file, lines...)
			}
			for range i % 4 {
				<-beat
			}
			if i%8 == 1 {
				s.update()
				s.refuses("work", "http://shop.example/", "https://shop.example/")
			}
			if i%13 == 12 {
				s.rules(file, bank, echoRule)
				s.update()
				tunnel = s.tunnel("work", "echo.example:443")
			}
		}
		s.Logf("%s through 200 edits; tunnels were cut %v after their host was removed", end(), lived)
		s.stop()
	})
}

func TestRestartUnderLoad(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", bank, echoRule)
		s.rules("play.10.137.0.12", bank)
		s.attach("work", "10.137.0.11")
		s.attach("play", "10.137.0.12")
		s.start("--drain=5s")
		play := s.show()["play"]
		_, end := s.load("work", "http://bank.example/", "https://bank.example/")
		for range 5 {
			pid := s.show()["work"].PID
			if _, errs, status := s.ctl("restart", "work"); status != 0 {
				s.Fatalf("restart: exit status %d: %s", status, errs)
			}
			if vm := s.show()["work"]; vm.PID == pid || vm.State != control.Running {
				s.Errorf("restarted: %+v, before pid %d", vm, pid)
			}
		}
		if now := s.show()["play"]; now.PID != play.PID {
			s.Errorf("play was restarted too: %+v", now)
		}

		// Restarting took nothing away: the tunnel goes on, but not for ever.
		tunnel := s.tunnel("work", "echo.example:443")
		old := s.show()["work"].PID
		s.ctl("restart", "work")
		s.must(echoes(tunnel))
		s.cut(tunnel) // by --drain
		s.until("its process has ended", func() error {
			if slices.Contains(s.proxies(), old) {
				return fmt.Errorf("pid %d runs", old)
			}
			return nil
		})
		s.Logf("while it restarted 6 times: %s", end())
		s.stop()
	})
}

// TestGenerationsAreBounded has more tunnels in older processes than may stay.
func TestGenerationsAreBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", echoRule)
	s.attach("work", "10.137.0.11")
	s.start()
	lines := []string{echoRule}
	var tunnels []net.Conn
	for i := range retiredMax + 3 {
		tunnels = append(tunnels, s.tunnel("work", "echo.example:443"))
		lines = append(lines, fmt.Sprintf(`^more%d\.example$`, i))
		s.rules("work.10.137.0.11", lines...)
		s.update()
	}
	for i, tunnel := range tunnels {
		if i < 3 { // of those that serve as few, the oldest
			s.cut(tunnel)
		} else if err := echoes(tunnel); err != nil {
			s.Errorf("tunnel %d of %d, of the newest %d: %v", i, len(tunnels), retiredMax, err)
		}
	}
	if n := len(s.proxies()); n != 1+retiredMax {
		s.Errorf("%d processes, want one and %d older ones", n, retiredMax)
	}
	s.stop()
}
