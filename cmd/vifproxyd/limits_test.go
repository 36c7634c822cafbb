package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/lab"
	"vifproxy/tinyproxy"
)

// template writes the template: what is built in, with another line in the place of one.
func (s *site) template(old, line string) {
	s.Helper()
	text, err := os.ReadFile("../../rules/builtin.conf")
	s.must(err)
	if !strings.Contains(string(text), old+"\n") {
		s.Fatalf("the built-in template has no line %q", old)
	}
	s.rules("config", strings.Replace(string(text), old+"\n", line+"\n", 1))
}

// TestMaxClientsWithinTheLimitsOfTheDaemon: where the daemon may have a thousand processes, a template that asks for
// 400 clients is served, and one that asks for more than there are processes is refused with what is possible.
func TestMaxClientsWithinTheLimitsOfTheDaemon(t *testing.T) {
	onBoth(t, func(s *site) {
		s.within = []string{"prlimit", "--nproc=1000:1000"}
		s.template("MaxClients 100", "MaxClients 400")
		s.startWork()
		before := s.show()["work"]
		s.template("MaxClients 100", "MaxClients 4000")
		s.told("work", control.Running, "start proxy for work (10.137.0.11): DIR/rules/config:30: MaxClients 4000: this machine "+
			"has room for a proxy with 984: RLIMIT_NPROC allows it 1000 processes and threads (write MaxClients 984 or less, "+
			"or raise LimitNPROC= in the unit with `systemctl edit vifproxyd`)")
		s.undisturbed(before, "http://bank.example/")
		s.template("MaxClients 100", "MaxClients 984")
		s.until("the new template serves", func() error {
			if now := s.show()["work"]; now.PID == before.PID || now.Error != "" {
				return fmt.Errorf("%+v", now)
			}
			return nil
		})
		s.opens("work", "http://bank.example/")
		s.stop()
	})
}

// TestProxiesEndBeforeTheDaemon: for lack of memory the kernel ends any proxy, and the vifproxy-confine that waits for the
// next start, before the resolver, and that before the daemon.
func TestProxiesEndBeforeTheDaemon(t *testing.T) {
	onBoth(t, func(s *site) {
		s.startWork()
		daemon := s.daemon.cmd.Process.Pid
		score := func(pid any) string {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%v/oom_score_adj", pid))
			s.must(err)
			return strings.TrimSpace(string(text))
		}
		if own, ours := score("self"), score(daemon); own != ours {
			s.Errorf("the daemon's score is %s, and not %s", ours, own)
		}
		for _, pid := range s.proxies() {
			if is := score(pid); is != "500" {
				s.Errorf("a proxy's score is %s", is)
			}
		}
		for _, pid := range s.processes(func(uid uint32) bool { return uid == tinyproxy.NamesUID }) {
			if is := score(pid); is != "250" {
				s.Errorf("the resolver's score is %s", is)
			}
		}
		s.until("a vifproxy-confine waits with the score of a proxy", func() error {
			for _, pid := range s.children(daemon) {
				command, _ := os.ReadFile(fmt.Sprintf("/proc/%s/cmdline", pid)) // it may have got its order
				if strings.HasPrefix(string(command), "vifproxy-confine\x00") && score(pid) == "500" {
					return nil
				}
			}
			return fmt.Errorf("children: %v", s.children(daemon))
		})
		s.stop()
	})
}

// children are the processes that a process has started.
func (s *site) children(pid int) (pids []string) {
	s.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	s.must(err)
	for _, path := range threads {
		text, _ := os.ReadFile(path) // a thread may have ended
		pids = append(pids, strings.Fields(string(text))...)
	}
	return pids
}

// TestRuntimeDirectoryHasOneBound: the files of all AppVMs take a quarter of the file system at most, whatever their AppVMs
// have logged, and there is room for another proxy.
func TestRuntimeDirectoryHasOneBound(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.inMemory("1m")
	s.rules(hostile+".10.137.0.11", bank)
	s.attach(hostile, "10.137.0.11")
	s.start()
	s.opens(hostile, "http://bank.example/")
	s.inHostile(4, func(dial func() (net.Conn, error)) error {
		for i := range 500 { // a line of a hundred bytes and more each
			if err := refuse(dial, fmt.Sprintf("host%d-%s.example", i, strings.Repeat("x", 100))); err != nil {
				return err
			}
		}
		return nil
	})
	s.rules("work.10.137.0.12", bank)
	s.attach("work", "10.137.0.12")
	s.opens("work", "http://bank.example/")
	var all int64
	s.must(filepath.Walk(s.runDir(), func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			all += info.Size()
		}
		return nil
	}))
	if all > 256<<10 || all < 64<<10 {
		s.Errorf("%d bytes of files in 1 MiB", all)
	}
	s.stop()
}

// TestDescriptorsOfTheDaemon: the daemon holds a bounded number of descriptors for each AppVM, whatever its list has gone
// through, and none for one that has left. `doctor` reckons with 40, for 18 generations (heldForEach in cmd/vifproxyctl).
func TestDescriptorsOfTheDaemon(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.start()
	held := func() int {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.daemon.cmd.Process.Pid))
		s.must(err)
		return len(open)
	}
	base := held()
	ips := map[string]string{"work": "10.137.0.11", "play": "10.137.0.12", "home": "10.137.0.13"}
	for name, ip := range ips {
		s.rules(name+"."+ip, bank)
		s.attach(name, ip)
		s.opens(name, "http://bank.example/")
		s.tunnel(name, "bank.example:443") // it keeps a generation
		lines := []string{bank, shop}
		for i := range 5 {
			s.rules(name+"."+ip, lines...)
			s.update()
			s.tunnel(name, "bank.example:443")
			lines = append(lines, fmt.Sprintf(`^host%d\.example$`, i))
		}
	}
	if now := held(); now-base > 16*len(ips) { // of 7 generations
		s.Errorf("%d descriptors for %d AppVMs", now-base, len(ips))
	} else {
		s.Logf("%d descriptors, and %d for %d AppVMs with old generations", base, now-base, len(ips))
	}
	for name := range ips {
		s.detach(name)
	}
	s.until("the descriptors are closed", func() error {
		if now := held(); now > base+4 { // a start more that is at hand, and what Go's runtime opens on the way
			return fmt.Errorf("%d, before %d", now, base)
		}
		return nil
	})
	s.stop()
}

// TestAListThatTheResolverHasNoRoomFor: a list that would take too much of the memory that all AppVMs share is refused, and its AppVM keeps
// its last good one. The others have their names.
func TestAListThatTheResolverHasNoRoomFor(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.pair()
	before, play := s.show()["work"], s.show()["play"]
	long := []string{bank}
	for i := range 1500 { // each takes 30 KB, written out
		long = append(long, fmt.Sprintf(`^\(a\{1,100\}\)\{1,20\}%d\.example$`, i))
	}
	s.rules("work.10.137.0.11", long...)
	const want = "work.10.137.0.11: a list of 1501 lines: the resolver has room for "
	s.until("the list is refused", func() error {
		if now := s.show()["work"]; !strings.Contains(now.Error, want) || now.State != control.Running {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	s.undisturbed(before, "http://bank.example/")
	s.undisturbed(play, "http://shop.example/")
	s.rules("work.10.137.0.11", bank, shop)
	s.until("a shorter one serves", func() error {
		if now := s.show()["work"]; now.PID == before.PID || now.Error != "" {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	s.opens("work", "http://shop.example/")
	s.stop()
}
