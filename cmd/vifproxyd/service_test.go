package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/await"
	"vifproxy/internal/lab"
)

func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
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

// TestARemovedControlSocketComesBack: meanwhile vifproxyctl does not say that nothing runs.
func TestARemovedControlSocketComesBack(t *testing.T) {
	onBoth(t, func(s *site) {
		s.startWork()
		s.must(s.daemon.cmd.Process.Signal(syscall.SIGSTOP)) // else the socket may be back before anybody has looked
		s.must(os.Remove(s.socket()))
		out, err := s.Command(s.Context(), filepath.Join(programs, "vifproxyctl"), "--socket="+s.socket(), "show").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "vifproxyd runs, but nobody listens on") {
			s.Errorf("%v: %s", err, out)
		}
		s.must(s.daemon.cmd.Process.Signal(syscall.SIGCONT))
		s.says("show", "running")
		s.opens("work", "http://bank.example/")
		s.stop()
	})
}

func TestSecondDaemonKeepsItsHandsOff(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", bank)
	s.attach("work", "10.137.0.11")
	s.start()
	pid := s.show()["work"].PID
	first := s.daemon
	second := s.launch()
	await.Value(s.T, "the end of the second vifproxyd", second.exited)
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

func TestFilesUnderTheRuntimeDirectory(t *testing.T) {
	t.Parallel()
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
