package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vifproxy/internal/cgroup"
	"vifproxy/internal/lab"
	"vifproxy/tinyproxy/limits"
)

// TestSmallVM: three AppVMs own their proxies, and take all that these may have. Together that is more than all proxies may have, so the
// kernel ends one after the other, and nothing else. The fourth AppVM has its pages all the time, and the three have theirs again. It
// needs a machine of 256 MB with cgroups of version 2, which `make matrix` makes.
func TestSmallVM(t *testing.T) {
	const small, rounds, quiet = 320 << 20, 3, "quiet"
	memory, err := limits.Memory()
	if err != nil {
		t.Fatal(err)
	}
	own, err := cgroup.Own()
	if err != nil {
		t.Fatal(err)
	}
	if enabled, err := os.ReadFile(filepath.Join(own, "cgroup.subtree_control")); memory > small || err != nil ||
		!strings.Contains(string(enabled), "memory") {
		t.Skipf("this machine has %d MiB, and cgroups have the controllers [%s], %v", memory>>20, strings.TrimSpace(string(enabled)), err)
	}
	s := newSite(t, lab.R42)
	s.asShipped()
	s.user = 64134
	s.must(os.Chown(s.dir, s.user, 0))
	names := []string{quiet, "owned1", "owned2", "owned3"}
	for i, name := range names {
		ip := fmt.Sprintf("10.137.34.%d", 11+i)
		s.rules(name+"."+ip, bank)
		s.attach(name, ip)
	}
	s.start()
	for _, name := range names {
		s.opens(name, "http://bank.example/")
	}
	before := s.show()
	shared := filepath.Join(own, filepath.Dir(s.groupOf(before[quiet].PID)))
	read := func(file string) string {
		text, err := os.ReadFile(filepath.Join(shared, file))
		s.must(err)
		return strings.TrimSpace(string(text))
	}
	// ended returns how often something was ended because all proxies together had too much.
	ended := func() (n int) {
		_, count, _ := strings.Cut(read("memory.events.local"), "oom ")
		fmt.Sscan(count, &n)
		return n
	}
	s.Logf("the machine has %d KiB, and all proxies may have %s bytes", memory>>10, read("memory.max"))

	asking, done := context.WithCancel(t.Context())
	var pages []time.Duration
	var asked sync.WaitGroup
	asked.Go(func() {
		for asking.Err() == nil {
			pages = append(pages, s.latencies(quiet, 100*time.Millisecond)...)
		}
	})
	defer asked.Wait()
	defer done()
	owned := map[int]bool{}
	for range rounds {
		already := ended()
		s.until("the kernel has ended a proxy", func() error {
			for _, name := range names[1:] {
				if pid := s.show()[name].PID; pid != 0 && !owned[pid] {
					owned[pid] = true
					s.own(own, pid)
				}
			}
			if n := ended(); n == already {
				return fmt.Errorf("all proxies use %s bytes", read("memory.current"))
			}
			return nil
		})
		begin := time.Now()
		for _, name := range names {
			s.until(name+" opens a page", func() error { return s.page(name, "http://bank.example/") })
			s.Logf("%v after an end, %s has a page", time.Since(begin).Round(time.Millisecond), name)
		}
	}
	done()
	asked.Wait()
	slices.Sort(pages)
	s.Logf("%d pages of the quiet AppVM, half of them within %v, the slowest in %v", len(pages), pages[len(pages)/2], pages[len(pages)-1])
	select {
	case <-s.daemon.exited:
		s.Fatalf("the daemon has ended: %v", s.daemon.err)
	default:
	}
	if now := s.show()[quiet]; now.PID != before[quiet].PID {
		s.Errorf("the quiet AppVM's proxy: %+v, before %+v", now, before[quiet])
	}
	s.stop()
}

// own does in a proxy's cgroup, as its user, what an owned proxy may: it takes processes, memory up to what its cgroup may have, and then
// the processor. It is not asked to end: the kernel ends it with its cgroup. The proxy may have ended before.
func (s *site) own(root string, proxy int) {
	s.Helper()
	var stat syscall.Stat_t
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", proxy))
	if err != nil || syscall.Stat(fmt.Sprintf("/proc/%d", proxy), &stat) != nil {
		return
	}
	_, group, _ := strings.Cut(strings.TrimSpace(string(text)), "0::")
	dir, err := os.Open(filepath.Join(root, group))
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	s.must(err)
	defer dir.Close()
	const script = `echo 500 >/proc/self/oom_score_adj
		for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 1000 & done
		{ head -c 48M /dev/zero; while :; do :; done; } | tail -c 48M`
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(dir.Fd()),
		Credential: &syscall.Credential{Uid: stat.Uid, Gid: stat.Uid}}
	if err := cmd.Start(); errors.Is(err, syscall.ENODEV) { // the cgroup has been removed (cgroup_css_set_fork in the kernel's kernel/cgroup/cgroup.c)
		return
	} else {
		s.must(err)
	}
	go cmd.Wait() //nolint:errcheck // it is killed
}
