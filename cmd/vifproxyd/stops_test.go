package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// TestAPersonsNoStays across the ends of the daemon, of all kinds, and what happens to the rule file, until a person says yes.
func TestAPersonsNoStays(t *testing.T) {
	onBoth(t, func(s *site) {
		s.pair()
		s.does("stop", "work")
		stopped := func(after string) {
			s.Helper()
			s.untilState("play", control.Running)
			if vm := s.show()["work"]; vm.State != control.Stopped || vm.PID != 0 {
				s.Errorf("after %s: %+v", after, vm)
			}
			if err := s.page("work", "http://bank.example/"); err == nil {
				s.Errorf("after %s: its proxy serves", after)
			}
		}
		stopped("stop")
		s.does("update")
		stopped("update")
		s.removeRules("work.10.137.0.11")
		s.until("the rule file is seen to be away", func() error {
			if vm, there := s.show()["work"]; there {
				return fmt.Errorf("shown: %+v", vm)
			}
			return nil
		})
		s.rules("work.10.137.0.11", bank)
		s.does("update")
		stopped("a rule file that was away")
		s.crash()
		if out, err := s.clean(); err != nil {
			s.Errorf("%v\n%s", err, out)
		}
		s.rules("work.10.137.0.11", bank, shop) // while nobody looks
		s.start()
		stopped("a crash, and what systemd has run after it")
		s.stop()
		s.start()
		stopped("a restart")
		s.must(os.Rename(filepath.Join(s.rulesDir(), "work.10.137.0.11"), filepath.Join(s.rulesDir(), "job.10.137.0.11")))
		s.does("update")
		if vm := s.show()["job"]; vm.State != control.Stopped {
			s.Errorf("under another name: %+v", vm)
		}
		s.must(os.Rename(filepath.Join(s.rulesDir(), "job.10.137.0.11"), filepath.Join(s.rulesDir(), "work.10.137.0.11")))
		if out := s.does("show"); !strings.Contains(out, "stopped by a person: vifproxyctl start ") {
			s.Errorf("show says:\n%s", out)
		}
		s.does("start", "work")
		s.opens("work", "http://bank.example/")

		s.does("kill-all")
		s.crash()
		s.start()
		for name, vm := range s.show() {
			if vm.State != control.Stopped {
				s.Errorf("%s, after kill-all and a crash: %+v", name, vm)
			}
		}
		s.does("kill-all-and-restart")
		s.opens("work", "http://bank.example/")
		s.opens("play", "http://shop.example/")
		s.stop()
		s.start()
		s.opens("work", "http://bank.example/")
		s.stop()
	})
}

// TestAStopThatCannotBeKept says so; an unreadable record of stops stops all, and says how to get on.
func TestAStopThatCannotBeKept(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.must(os.Mkdir(s.stateDir(), 0o755))
	s.must(syscall.Mount("tmpfs", s.stateDir(), "tmpfs", 0, "size=64k,mode=755"))
	s.Cleanup(func() { syscall.Unmount(s.stateDir(), syscall.MNT_DETACH) })
	s.must(os.Chown(s.stateDir(), s.user, 0))
	s.must(writeFile(filepath.Join(s.stateDir(), "full"), make([]byte, 64<<10), 0o644))
	s.pair()
	_, errs, status := s.ctl("stop", "work")
	if status != 1 || !strings.Contains(errs, "will not outlive a restart") || !strings.Contains(errs, "no space left") {
		t.Errorf("exit status %d: %s", status, errs)
	}
	s.untilState("work", control.Stopped)
	s.says("doctor", "record of stopped AppVMs")
	s.must(os.Remove(filepath.Join(s.stateDir(), "full")))
	s.until("it is kept", func() error {
		_, err := os.Stat(filepath.Join(s.stateDir(), "stopped"))
		return err
	})
	s.stop()

	s.must(writeFile(filepath.Join(s.stateDir(), "stopped"), []byte(`{"stopped": [`), 0o640))
	s.start()
	for name, vm := range s.show() {
		if vm.State != control.Stopped {
			t.Errorf("%s, with a broken record: %+v", name, vm)
		}
	}
	if !s.daemon.hasTold("vifproxyctl start NAME") {
		t.Errorf("systemd is told %q", s.daemon.told)
	}
	s.does("start", "play")
	s.opens("play", "http://shop.example/")
	if vm := s.show()["work"]; vm.State != control.Stopped {
		t.Errorf("work: %+v", vm)
	}
	s.stop()
}

// does runs a verb that must succeed, and returns what it prints.
func (s *site) does(args ...string) string {
	s.Helper()
	out, errs, status := s.ctl(args...)
	if status != 0 {
		s.Errorf("vifproxyctl %s: exit status %d: %s", strings.Join(args, " "), status, errs)
	}
	return out
}
