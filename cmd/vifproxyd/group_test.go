package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/cgroup"
	"vifproxy/internal/lab"
)

// Root has started the daemon by hand, so it makes a cgroup for itself and its proxies.
func TestGroupByHand(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R41)
	home, err := cgroup.Own()
	s.must(err)
	s.startWork()
	daemon := s.daemon.cmd.Process.Pid
	group := s.groupOf(daemon)
	if !strings.HasPrefix(filepath.Base(group), fmt.Sprintf("vifproxyd-%d-", daemon)) {
		t.Fatalf("the daemon is in %s", group)
	}
	if proxy := s.groupOf(s.untilState("work", control.Running).PID); filepath.Dir(proxy) != group {
		t.Errorf("the daemon is in %s, its proxy in %s", group, proxy)
	}
	dir := filepath.Join(home, filepath.Base(group))
	s.crash()
	if out, err := s.clean(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a crash and --clean: %v", err)
	}
	s.start()
	dir = filepath.Join(home, filepath.Base(s.groupOf(s.daemon.cmd.Process.Pid)))
	s.stop()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the end: %v", err)
	}
}

// groupOf returns the cgroup of a process.
func (s *site) groupOf(pid int) string {
	s.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	s.must(err)
	_, group, _ := strings.Cut("\n"+string(text), "\n0::")
	group, _, _ = strings.Cut(group, "\n")
	return group
}

// A process that has the maps of the switchboard decides who reaches which proxy. No proxy has them, and no program that the daemon runs.
func TestNobodyInheritsTheSwitchboard(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.startWork()
	daemon := s.daemon.cmd.Process.Pid
	if !s.has(fmt.Sprint(daemon), "bpf") {
		t.Fatal("the daemon itself has got nothing")
	}
	s.until("the resolver, a proxy, and a vifproxy-confine that waits", func() error {
		if n := len(s.children(daemon)); n < 3 {
			return fmt.Errorf("%d processes", n)
		}
		return nil
	})
	s.until("no process has the switchboard", func() error {
		for _, pid := range s.children(daemon) {
			if s.has(pid, "bpf") { // as each has before it executes its program
				return fmt.Errorf("process %s has inherited it", pid)
			}
		}
		return nil
	})
}

// has reports whether a process has a file open whose name contains a text.
func (s *site) has(pid, name string) bool {
	s.Helper()
	files, err := filepath.Glob("/proc/" + pid + "/fd/*")
	s.must(err)
	return slices.ContainsFunc(files, func(f string) bool {
		to, _ := os.Readlink(f)
		return strings.Contains(to, name)
	})
}

// A move to another cgroup takes the kernel several times as long as the rest of a start, so a vifproxy-confine makes it in advance.
func TestProxyStartsInTheGroupInWhichItWaited(t *testing.T) {
	onBoth(t, func(s *site) {
		s.start()
		var waits, group string
		s.until("a vifproxy-confine waits in a group of its own", func() error {
			waiting, resolver := []string{}, false
			for _, pid := range s.children(s.daemon.cmd.Process.Pid) {
				argv, _ := os.ReadFile("/proc/" + pid + "/cmdline") // it may have ended
				if name, _, _ := strings.Cut(string(argv), "\x00"); name == "vifproxy-confine" {
					waiting = append(waiting, pid)
				} else if name == "vifproxy-names" {
					resolver = true
				}
			}
			if !resolver || len(waiting) != 1 { // the resolver is a vifproxy-confine at first, too
				return fmt.Errorf("waiting are %v, and a resolver is there: %v", waiting, resolver)
			}
			waits = waiting[0]
			n, err := strconv.Atoi(waits)
			s.must(err)
			if group = s.groupOf(n); !strings.HasPrefix(filepath.Base(group), "proxy-") {
				return fmt.Errorf("it is in %q", group)
			}
			return nil
		})
		s.rules("work.10.137.0.11", bank)
		s.attach("work", "10.137.0.11")
		proxy := s.untilState("work", control.Running).PID
		if is := s.groupOf(proxy); fmt.Sprint(proxy) == waits && is != group {
			s.Errorf("process %s waited in %s and serves in %s", waits, group, is)
		} else if fmt.Sprint(proxy) != waits {
			s.Errorf("process %s waited, and %d serves", waits, proxy)
		}
		s.stop()
	})
}
