package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vifproxy/control"
)

// clean runs `vifproxyd --clean`.
func (s *site) clean() (output string, err error) {
	out, err := s.vifproxyd(s.Context(), "--clean").CombinedOutput()
	return string(out), err
}

func TestKilledProxyComesBack(t *testing.T) {
	onBoth(t, func(s *site) {
		s.startWork()
		for range 5 {
			pid := s.untilState("work", control.Running).PID
			s.must(syscall.Kill(pid, syscall.SIGKILL))
			s.opens("work", "http://bank.example/")
			s.until("another process serves", func() error {
				if now := s.show()["work"]; now.PID == pid || now.State != control.Running {
					return fmt.Errorf("%+v", now)
				}
				return nil
			})
		}
		s.stop()
	})
}

func TestKilledDaemonClosesEverybodyOut(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", bank)
		s.attach("work", "10.137.0.11")
		for range 3 {
			s.start()
			s.opens("work", "http://bank.example/", "https://bank.example/")
			s.crash()
			s.noProxies()
			if r := s.Get("work", "http://bank.example/"); r.Err == nil {
				t.Errorf("after the daemon was killed: %+v", r)
			}
			s.rules("work.10.137.0.11", shop) // while nobody looks
			s.start()
			s.opens("work", "http://shop.example/")
			s.refuses("work", "http://bank.example/")
			s.rules("work.10.137.0.11", bank)
			s.stop()
		}
	})
}

func TestCleanTakesAwayWhatACrashLeft(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", bank)
		s.attach("work", "10.137.0.11")
		before := s.ruleset()
		s.start()
		s.opens("work", "http://bank.example/")
		if out, err := s.clean(); err == nil || !strings.Contains(out, "another vifproxyd is running") {
			t.Errorf("while the daemon runs: %v\n%s", err, out)
		}
		if err := s.page("work", "http://bank.example/"); err != nil {
			t.Errorf("after that: %v", err)
		}
		s.crash()
		if s.ruleset() == before {
			t.Error("a crash leaves no rules, so that this test shows nothing")
		}
		if out, err := s.clean(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		s.nothingLeft()
		if files, err := os.ReadDir(s.runDir()); err != nil || len(files) > 0 {
			t.Errorf("files left: %v %v", files, err)
		}
		if out, err := s.clean(); err != nil {
			t.Errorf("with nothing to do: %v\n%s", err, out)
		}
		if now := s.ruleset(); sorted(now) != sorted(before) {
			t.Errorf("now:\n%s\nbefore:\n%s", now, before)
		}
	})
}

// TestNoFenceGoesBeforeWhatIsInIt: a crash leaves a process of a proxy, and what comes next cannot start proxies. It ends that process all the
// same, before it removes the fence.
func TestNoFenceGoesBeforeWhatIsInIt(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", bank)
		s.attach("work", "10.137.0.11")
		before := s.ruleset()
		for _, flags := range [][]string{{"--clean"}, nil} {
			s.start()
			s.opens("work", "http://bank.example/")
			s.crash()
			left := s.asProxy(uidOf(netip.MustParseAddr("10.137.0.11")))
			file := filepath.Join(s.dir, "file")
			s.must(os.WriteFile(file, nil, 0o600))
			out, err := s.vifproxyd(s.Context(), append(flags, "--runtime-dir="+filepath.Join(file, "run"))...).CombinedOutput()
			if err == nil {
				t.Errorf("%v: it starts without a runtime directory:\n%s", flags, out)
			}
			if now := s.ruleset(); sorted(now) != sorted(before) {
				t.Errorf("%v: rules are left:\n%s\n%s", flags, now, out)
			}
			// If vifproxyd has killed it, it is dead by now. If not, SIGTERM ends it here, and its status says so.
			s.must(left.Process.Signal(syscall.SIGTERM))
			if left.Wait(); left.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Errorf("%v: a process of a proxy is left, and no fence:\n%s", flags, out)
			}
		}
	})
}

// Another control socket makes no second daemon: the firewall and the uids of proxies are there once.
func TestSecondDaemonIsRefused(t *testing.T) {
	onBoth(t, func(s *site) {
		s.startWork()
		pid, rules := s.untilState("work", control.Running).PID, s.ruleset()
		for _, flags := range [][]string{nil, {"--clean"}} {
			ctx, cancel := context.WithTimeout(s.Context(), patience)
			out, err := s.vifproxyd(ctx, append(flags, "--control-socket="+s.dir+"/second/control.sock")...).CombinedOutput()
			cancel()
			if err == nil || !strings.Contains(string(out), "taken, by another vifproxyd") {
				t.Errorf("%v: %v\n%s", flags, err, out)
			}
		}
		if now := s.untilState("work", control.Running); now.PID != pid || s.ruleset() != rules {
			t.Errorf("%+v, and it was pid %d; rules now:\n%s", now, pid, s.ruleset())
		}
		if out, _ := s.Command(s.Context(), "ss", "-xlp").Output(); !strings.Contains(string(out), "@vifproxyd") {
			t.Errorf("ss does not show who it is:\n%s", out)
		}
		s.stop()
	})
}
