package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// The tests in this file run the real daemon, with real tinyproxies, in a firewall VM made of namespaces.

const (
	bank = `^bank\.example$`
	shop = `^shop\.example$`
)

func TestEachAppVMHasItsOwnList(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("banking.10.137.0.11", bank)
		s.rules("shopping.10.137.0.12", shop)
		s.rules("twin.10.137.7.11", shop) // the same last octet as banking
		s.start()
		s.attach("banking", "10.137.0.11")
		s.attach("shopping", "10.137.0.12")
		s.attach("twin", "10.137.7.11")
		s.attach("stranger", "10.137.0.13")

		s.opens("banking", "http://bank.example/", "https://bank.example/")
		s.refuses("banking", "http://shop.example/", "https://shop.example/")
		s.opens("shopping", "http://shop.example/", "https://shop.example/")
		s.refuses("shopping", "http://bank.example/", "https://bank.example/")
		s.opens("twin", "http://shop.example/")
		s.refuses("twin", "http://bank.example/")
		if n, err := s.Reached("bank.example", 0); err != nil || n != 2 {
			t.Errorf("bank.example was reached %d times (%v), want by banking alone, twice", n, err)
		}
		if err := s.cutOff("stranger"); err != nil {
			t.Errorf("an AppVM without a rule file: %v", err)
		}

		// No other AppVM gets to banking's proxy: not at its own port, not with banking's address.
		port := uint16(s.show()["banking"].Port)
		target := netip.AddrPortFrom(lab.Gateway, port).String()
		for _, vm := range []string{"shopping", "stranger"} {
			ctx, cancel := context.WithTimeout(t.Context(), 2e9)
			if conn, err := s.Dial(ctx, vm, "tcp", target); err == nil {
				conn.Close()
				t.Errorf("%s reaches banking's proxy at %s", vm, target)
			}
			for _, to := range []string{target, fmt.Sprintf("%s:%d", lab.Gateway, lab.ProxyPort)} {
				if conn, err := s.DialFrom(ctx, vm, netip.MustParseAddr("10.137.0.11"), "tcp", to); err == nil {
					conn.Close()
					t.Errorf("%s, as banking, reaches %s", vm, to)
				}
			}
			cancel()
		}
		s.stop()
	})
}

func TestAppVMsComeAndGo(t *testing.T) {
	onBoth(t, func(s *site) {
		s.start()
		s.attach("early", "10.137.0.11") // before its file
		s.rules("early.10.137.0.11", bank)
		s.rules("late.10.137.0.12", bank) // before its AppVM
		s.opens("early", "http://bank.example/")
		s.untilState("late", control.Waiting)
		s.attach("late", "10.137.0.12")
		s.opens("late", "http://bank.example/")

		// Another netvm and back: the same address on another vif.
		old := s.vifs["late"]
		s.detach("late")
		s.attach("late", "10.137.0.12")
		s.opens("late", "http://bank.example/")
		if vm := s.show()["late"]; !slices.Equal(vm.Interfaces, []string{s.vifs["late"]}) || vm.Interfaces[0] == old {
			t.Errorf("after the switch: %+v", vm)
		}

		// An HVM's pair: either one may go first.
		for _, first := range []int{0, 1} {
			main := s.next("hvm", "10.137.0.13")
			stub := s.next("hvm", "10.137.0.13")
			s.rules("hvm.10.137.0.13", bank)
			s.must(s.Attach(main))
			s.must(s.Attach(stub))
			vifs := []string{main.Vif(), stub.Vif()}
			s.until("both vifs are bound", func() error {
				if vm := s.show()["hvm"]; !slices.Equal(vm.Interfaces, vifs) || vm.State != control.Running {
					return fmt.Errorf("%+v", vm)
				}
				return nil
			})
			for _, vif := range vifs {
				s.must(s.Use(vif))
				s.opens("hvm", "http://bank.example/")
			}
			s.must(s.Detach(vifs[first]))
			s.opens("hvm", "http://bank.example/")
			s.until("one vif is left", func() error {
				if vm := s.show()["hvm"]; !slices.Equal(vm.Interfaces, []string{vifs[1-first]}) {
					return fmt.Errorf("%+v", vm)
				}
				return nil
			})
			s.must(s.Vanish(vifs[1-first]))
			s.untilState("hvm", control.Waiting)
			s.removeRules("hvm.10.137.0.13")
		}

		s.detach("early")
		s.must(s.Vanish(s.vifs["late"]))
		s.untilState("early", control.Waiting)
		s.untilState("late", control.Waiting)
		s.until("all processes are gone", func() error {
			if pids := s.proxies(); len(pids) > 0 {
				return fmt.Errorf("%v", pids)
			}
			return nil
		})
		if strings.Contains(s.ruleset(), "10.137.0.11") && s.Ruleset == lab.R42 {
			t.Errorf("a trace of early is left:\n%s", s.ruleset())
		}
		s.stop()
	})
}

func TestHalfAnAttachIsNoAppVM(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("slow.10.137.0.11", bank)
		s.start()
		vm := s.next("slow", "10.137.0.11")
		for _, step := range []lab.Step{lab.Created, lab.Fenced, lab.Up, lab.Routed} {
			s.must(s.AttachUpTo(vm, step))
			s.update()
			if vm := s.show()["slow"]; vm.State != control.Waiting {
				t.Errorf("after step %d: %+v", step, vm)
			}
		}
		s.must(s.Attach(vm))
		s.opens("slow", "http://bank.example/")
		s.stop()
	})
}

func TestRuleFilesComeChangeAndGo(t *testing.T) {
	onBoth(t, func(s *site) {
		s.attach("work", "10.137.0.11")
		s.start()
		if err := s.cutOff("work"); err != nil {
			t.Error(err)
		}
		s.rules("work.10.137.0.11", bank)
		s.opens("work", "http://bank.example/")
		s.refuses("work", "http://shop.example/")

		s.rules("work.10.137.0.11", bank, shop)
		s.opens("work", "http://shop.example/")
		s.rules("work.10.137.0.11", shop)
		s.until("bank is refused again", func() error {
			if r := s.Get("work", "http://bank.example/"); r.Status != 403 {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})

		s.must(os.Rename(filepath.Join(s.rulesDir(), "work.10.137.0.11"), filepath.Join(s.rulesDir(), "play.10.137.0.11")))
		s.untilState("play", control.Running)
		if err := s.page("work", "http://shop.example/"); err != nil {
			t.Errorf("after its rule file was renamed: %v", err)
		}
		if _, there := s.show()["work"]; there {
			t.Error("the old name is still shown")
		}
		s.removeRules("play.10.137.0.11")
		s.until("the AppVM is cut off", func() error { return s.cutOff("work") })
		s.stop()
	})
}

func TestBadFilesHurtOneAppVM(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("good.10.137.0.11", bank)
		s.rules("bad.10.137.0.12", bank)
		s.attach("good", "10.137.0.11")
		s.attach("bad", "10.137.0.12")
		s.start()
		s.opens("bad", "http://bank.example/")
		before := s.show()

		for _, test := range []struct{ line, message string }{
			{`^bank\.example $`, "bad.10.137.0.12:1"},          // tinyproxy would read ^bank\.example
			{`^\(bank\.example$`, "bad.10.137.0.12:1"},         // tinyproxy refuses it
			{"#: egress 192.168.0.0/16x", "bad.10.137.0.12:1"}, // no network
			{strings.Repeat("x", 600), "bad.10.137.0.12:1"},    // tinyproxy would cut it
		} {
			s.rules("bad.10.137.0.12", test.line)
			_, errs, status := s.ctl("update")
			if status != 1 || !strings.Contains(errs, "bad (10.137.0.12)") || !strings.Contains(errs, test.message) {
				t.Errorf("update with %.40q: exit status %d, %s", test.line, status, errs)
			}
			vm := s.show()["bad"]
			if vm.State != control.Running || vm.PID != before["bad"].PID || !strings.Contains(vm.Error, test.message) {
				t.Errorf("with %.40q: %+v", test.line, vm)
			}
			if err := s.page("bad", "http://bank.example/"); err != nil {
				t.Errorf("the last good rules with %.40q: %v", test.line, err)
			}
		}
		s.rules("config", "Port {prot}")
		if _, errs, status := s.ctl("update"); status != 1 || !strings.Contains(errs, "config:1") {
			t.Errorf("update with a bad template: exit status %d, %s", status, errs)
		}
		if now := s.show()["good"]; now.PID != before["good"].PID || now.State != control.Running {
			t.Errorf("good was disturbed: %+v, before %+v", now, before["good"])
		}
		s.removeRules("config")
		s.rules("bad.10.137.0.12", bank)
		s.update()
		if now := s.show()["bad"]; now.Error != "" {
			t.Errorf("mended: %+v", now)
		}
		s.stop()
	})
}

func TestKilledProxyComesBack(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", bank)
		s.attach("work", "10.137.0.11")
		s.start()
		s.opens("work", "http://bank.example/")
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

func TestFlushedRulesAreRepaired(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", bank)
		s.attach("work", "10.137.0.11")
		s.start()
		s.opens("work", "http://bank.example/")
		pid := s.show()["work"].PID
		intact := s.ruleset()
		if s.Ruleset == lab.R42 {
			s.inFirewall("nft", "flush", "ruleset")
			s.must(s.LoadRules(t.Context()))
		} else {
			for _, args := range []string{"-F", "-X", "-t nat -F", "-t nat -X"} {
				s.inFirewall("iptables", strings.Fields(args)...)
			}
			s.must(s.LoadRules(t.Context()))
			s.must(s.daemon.cmd.Process.Signal(syscall.SIGHUP))
		}
		s.until("the rules are as before", func() error {
			if now := s.ruleset(); sorted(now) != sorted(intact) {
				return fmt.Errorf("now:\n%s\nbefore:\n%s", now, intact)
			}
			return nil
		})
		s.opens("work", "http://bank.example/")
		if now := s.show()["work"].PID; now != pid {
			t.Errorf("the proxy was restarted: pid %d, before %d", now, pid)
		}
		s.stop()
	})
}

// sorted makes two rulesets comparable whose tables were made in another order.
func sorted(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestHundredAppVMsAtOnce(t *testing.T) {
	onBoth(t, func(s *site) {
		const n = 100
		s.start()
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf("vm%d", i)
			ip := fmt.Sprintf("10.137.%d.%d", i/50, 10+i%50)
			s.rules(names[i]+"."+ip, fmt.Sprintf(`^site%d\.example$`, i))
			s.attach(names[i], ip)
		}
		for i, name := range names {
			s.opens(name, fmt.Sprintf("http://site%d.example/", i))
			s.refuses(name, fmt.Sprintf("http://site%d.example/", (i+1)%n))
		}
		s.update() // all is at rest
		before, rules := s.show(), s.ruleset()
		log := len(s.daemon.log.String())
		s.update()
		after := s.show()
		for name := range before {
			if before[name].PID != after[name].PID || after[name].State != control.Running {
				t.Errorf("%s: %+v, before %+v", name, after[name], before[name])
			}
		}
		if s.ruleset() != rules {
			t.Error("an update with nothing to do changed rules")
		}
		if news := s.daemon.log.String()[log:]; strings.Contains(news, "firewall written") {
			t.Errorf("an update with nothing to do wrote to the firewall:\n%s", news)
		}
		s.stop()
	})
}

func TestSystemdIsTold(t *testing.T) {
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", bank)
	s.attach("work", "10.137.0.11")
	s.start()
	if err := s.page("work", "http://bank.example/"); err != nil {
		t.Errorf("READY=1 came before the first reconcile was done: %v", err)
	}
	s.until("the status line tells of it", func() error {
		if !s.daemon.hasTold("STATUS=AppVMs: 1 running") {
			return errors.New("not told")
		}
		return nil
	})
	s.must(s.daemon.cmd.Process.Signal(syscall.SIGHUP))
	s.until("it has reloaded", func() error {
		s.daemon.mu.Lock()
		defer s.daemon.mu.Unlock()
		i := slices.IndexFunc(s.daemon.told, func(m string) bool {
			return strings.HasPrefix(m, "RELOADING=1\nMONOTONIC_USEC=")
		})
		if i < 0 || !slices.Contains(s.daemon.told[i:], "READY=1") {
			return fmt.Errorf("%q", s.daemon.told)
		}
		return nil
	})
	if !s.daemon.hasTold("WATCHDOG=1") {
		t.Error("no WATCHDOG=1 from the loop")
	}
	s.stop()
	if !s.daemon.hasTold("STOPPING=1") {
		t.Error("no STOPPING=1")
	}
}

func TestVerbsOfTheCommandLine(t *testing.T) {
	s := newSite(t, lab.R42)
	if _, errs, status := s.ctl("show"); status != 3 || !strings.Contains(errs, "not running") {
		t.Errorf("without a daemon: exit status %d, %s", status, errs)
	}
	s.rules("work.10.137.0.11", bank)
	s.rules("play.10.137.0.12", shop)
	s.attach("work", "10.137.0.11")
	s.start()
	out, _, _ := s.ctl("show")
	if head := strings.Fields(strings.SplitN(out, "\n", 2)[0]); !slices.Equal(head[:3], []string{"NAME", "IP", "INTERFACE"}) {
		t.Errorf("show:\n%s", out)
	}

	expect := func(want int, args ...string) {
		t.Helper()
		if out, errs, status := s.ctl(args...); status != want {
			t.Errorf("vifproxyctl %s: exit status %d, want %d:\n%s%s", strings.Join(args, " "), status, want, out, errs)
		}
	}
	expect(0, "stop", "work")
	if vm := s.show()["work"]; vm.State != control.Stopped || vm.PID != 0 {
		t.Errorf("stopped: %+v", vm)
	}
	if err := s.cutOff("work"); err != nil {
		t.Errorf("stopped: %v", err)
	}
	expect(0, "start", "work")
	if err := s.page("work", "http://bank.example/"); err != nil {
		t.Errorf("started: %v", err)
	}
	pid := s.show()["work"].PID
	expect(0, "restart", "work")
	if vm := s.show()["work"]; vm.State != control.Running || vm.PID == pid {
		t.Errorf("restarted: %+v, before pid %d", vm, pid)
	}
	expect(0, "kill-all")
	if pids := s.proxies(); len(pids) > 0 {
		t.Errorf("kill-all left %v", pids)
	}
	expect(0, "kill-all-and-restart")
	if err := s.page("work", "http://bank.example/"); err != nil {
		t.Errorf("after kill-all-and-restart: %v", err)
	}
	expect(1, "restart", "nobody")
	expect(2, "dance")
	s.stop()
}

func TestFilesUnderTheRuntimeDirectory(t *testing.T) {
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", bank)
	s.attach("work", "10.137.0.11")
	compat := filepath.Join(s.dir, "tinyproxy")
	s.start("--compat-dir=" + compat)
	s.opens("work", "http://bank.example/")
	s.refuses("work", "http://shop.example/")
	for _, dir := range []string{s.runDir(), compat} {
		s.until("the refused host is in the log below "+dir, func() error {
			text, err := os.ReadFile(filepath.Join(dir, "work", "log"))
			if err == nil && !strings.Contains(string(text), `filtered domain "shop.example"`) {
				err = fmt.Errorf("log: %s", text)
			}
			return err
		})
		text, err := os.ReadFile(filepath.Join(dir, "work", "config"))
		if err != nil || !strings.Contains(string(text), "FilterDefaultDeny") {
			t.Errorf("config: %v\n%s", err, text)
		}
	}
	s.stop()
}

func TestSecondDaemonKeepsItsHandsOff(t *testing.T) {
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", bank)
	s.attach("work", "10.137.0.11")
	s.start()
	pid := s.show()["work"].PID
	first := s.daemon
	second := s.launch()
	<-second.exited
	if second.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("the second daemon's end: %v", second.err)
	}
	s.daemon = first
	if vm := s.show()["work"]; vm.PID != pid || vm.State != control.Running {
		t.Errorf("the first one's proxy: %+v", vm)
	}
	if err := s.page("work", "http://bank.example/"); err != nil {
		t.Error(err)
	}
	s.stop()
}

// TestConfinement: what proxies are confined by is shown, and what is missing refuses a start where all is required.
func TestConfinement(t *testing.T) {
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", bank)
	s.attach("work", "10.137.0.11")
	s.start()
	s.opens("work", "http://bank.example/")
	c := s.show()["work"].Confinement
	if c == nil || !slices.Contains(c.Applied, "seccomp") || !slices.Contains(c.Applied, "landlock") {
		t.Fatalf("confinement %+v", c)
	}
	if told := strings.Count(s.daemon.log.String(), "proxies are "); told != 1 {
		t.Errorf("it is told %d times", told)
	}
	s.stop()
	if len(c.Missing) == 0 {
		s.start("--require-confinement")
		s.stop()
		return
	}
	d := s.launch("--require-confinement")
	<-d.exited
	if log := d.log.String(); d.err == nil || !strings.Contains(log, c.Missing[0]) {
		t.Errorf("required where there is no %q: %v\n%s", c.Missing, d.err, log)
	}
	s.nothingLeft()
}
