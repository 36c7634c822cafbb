package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

var starveTime = flag.Duration("starve.time", 5*time.Second, "how long TestStarvation looks at the quiet AppVM, each time")

// smallVM is a machine of 400 MB: Linux allows as many threads as have an eighth of the memory for their stacks
// (set_max_threads in kernel/fork.c).
const (
	smallMemory = 400 << 20
	smallTasks  = smallMemory / 8 / (16 << 10)
)

// inSmallVM has the daemon start in cgroups that have the memory of a small VM and the tasks that its unit has there,
// whichever version of cgroups this machine has. It returns the files that count what the kernel has ended there for lack of memory.
func (s *site) inSmallVM() (killed func() string) {
	s.Helper()
	name := "vifproxy-" + filepath.Base(s.dir)
	var dirs []string
	set := func(dir string, limits ...string) {
		if err := os.Mkdir(dir, 0o755); errors.Is(err, unix.EROFS) {
			s.Skipf("in this container nobody can limit memory and tasks: %v", err)
		} else {
			s.must(err)
		}
		s.Cleanup(func() {
			s.until("the cgroup is empty", func() error { return os.Remove(dir) })
		})
		dirs = append(dirs, dir)
		for _, limit := range limits {
			file, value, _ := strings.Cut(limit, "=")
			// Without swap accounting there is nothing to limit.
			if err := writeFile(filepath.Join(dir, file), []byte(value), 0); err != nil && !strings.Contains(file, "sw") {
				s.Fatal(err)
			}
		}
	}
	unit, err := os.ReadFile("../../packaging/vifproxyd.service")
	s.must(err)
	most := smallTasks
	if !strings.Contains(string(unit), "\nTasksMax=infinity\n") {
		most = smallTasks * 15 / 100 // as systemd has it
	}
	memory, tasks := fmt.Sprint(smallMemory), fmt.Sprintf("pids.max=%d", most)
	count := "memory.oom_control" // of cgroup v1: its last line is oom_kill
	if enabled, err := os.ReadFile("/sys/fs/cgroup/cgroup.subtree_control"); err == nil &&
		strings.Contains(string(enabled), "memory") && strings.Contains(string(enabled), "pids") {
		set(filepath.Join("/sys/fs/cgroup", name), "memory.max="+memory, "memory.swap.max=0", tasks)
		count = "memory.events"
	} else if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); err == nil {
		set(filepath.Join("/sys/fs/cgroup/memory", name), "memory.limit_in_bytes="+memory, "memory.memsw.limit_in_bytes="+memory)
		set(filepath.Join("/sys/fs/cgroup/pids", name), tasks)
	} else {
		s.Skip("this machine lets nobody limit memory and tasks: neither cgroup v1 nor controllers of v2 for the root's children")
	}
	enter := ""
	for i, dir := range dirs { // where the firewall VM sees them: its /sys is another
		seen := filepath.Join(s.dir, fmt.Sprint("cgroup", i))
		s.must(os.Mkdir(seen, 0o755))
		s.must(unix.Mount(dir, seen, "", unix.MS_BIND, ""))
		s.Cleanup(func() { s.must(unix.Unmount(seen, unix.MNT_DETACH)) })
		enter += "echo 0 >" + seen + "/cgroup.procs; "
	}
	s.within = []string{"sh", "-ec", enter + `exec "$@"`, "sh"}
	return func() string {
		text, err := os.ReadFile(filepath.Join(dirs[0], count))
		s.must(err)
		_, n, _ := strings.Cut(string(text), "oom_kill ")
		return strings.TrimSpace(strings.SplitN(n, "\n", 2)[0])
	}
}

// latencies has an AppVM open a page ten times a second for a time, and returns how long each took, sorted. None may fail.
func (s *site) latencies(vm string, all time.Duration) (took []time.Duration) {
	s.Helper()
	for end := time.Now().Add(all); time.Now().Before(end); {
		begin := time.Now()
		if err := s.page(vm, "http://bank.example/"); err != nil {
			s.Errorf("request %d: %v", len(took)+1, err)
		}
		took = append(took, time.Since(begin))
		time.Sleep(time.Until(begin.Add(100 * time.Millisecond)))
	}
	slices.Sort(took)
	return took
}

// p99 is the last but a hundredth.
func p99(sorted []time.Duration) time.Duration { return sorted[(len(sorted)*99+99)/100-1] }

// TestStarvation: in a VM of 400 MB, what six AppVMs do at all their limits does not keep the seventh from its pages, and
// the daemon lives.
func TestStarvation(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	killed := s.inSmallVM()
	const quiet, greedy = "quiet", 6
	names := []string{quiet}
	s.rules(quiet+".10.137.3.11", bank)
	s.attach(quiet, "10.137.3.11")
	for i := range greedy {
		name, ip := fmt.Sprintf("greedy%d", i), fmt.Sprintf("10.137.3.%d", 21+i)
		names = append(names, name)
		s.rules(name+"."+ip, bank)
		s.attach(name, ip)
	}
	s.start()
	for _, name := range names {
		s.opens(name, "http://bank.example/")
	}
	before := s.show()
	alone := s.latencies(quiet, *starveTime)

	// Connections that say nothing: as many as each may have, and some that wait.
	var mu sync.Mutex
	var open []net.Conn
	var dialing sync.WaitGroup
	for _, name := range names[1:] {
		dialing.Go(func() {
			err := s.DoVM(name, func() error {
				for range 110 {
					conn, err := net.DialTimeout("tcp", gateway, time.Second)
					if err != nil {
						continue // the backlog is full
					}
					mu.Lock()
					open = append(open, conn)
					mu.Unlock()
				}
				return nil
			})
			if err != nil {
				s.Error(err)
			}
		})
	}
	dialing.Wait()
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	s.until("the proxies serve as many as they may", func() error {
		for _, name := range names[1:] {
			if n := s.status(before[name].PID, "Threads"); n < 100 {
				return fmt.Errorf("%s: %d threads", name, n)
			}
		}
		return nil
	})
	used := func() (all time.Duration) {
		for _, name := range names[1:] {
			all += s.cpu(before[name].PID)
		}
		return all
	}
	began, usedBefore := time.Now(), used()
	busy := s.latencies(quiet, *starveTime)
	s.Logf("%d connections, whose proxies took %.1f %% of a CPU; the quiet AppVM's %d requests: p99 %v, median %v; before: p99 %v, "+
		"median %v", len(open), 100*float64(used()-usedBefore)/float64(time.Since(began)), len(busy), p99(busy), busy[len(busy)/2],
		p99(alone), alone[len(alone)/2])
	// A short look, beside other tests, is about requests that fail.
	if p99(busy) > 2*p99(alone) && *starveTime >= time.Minute {
		s.Errorf("p99 is %v, and was %v", p99(busy), p99(alone))
	}

	// In addition, as much memory as an owned proxy may write to.
	var eaters []*eater
	for range greedy {
		eaters = append(eaters, s.eat())
	}
	hungry := s.latencies(quiet, *starveTime)
	s.until("the kernel has ended something for lack of memory", func() error {
		if killed() == "0" {
			return errors.New("there is memory enough")
		}
		return nil
	})
	s.Logf("with the memory used up: p99 %v, median %v; the kernel has ended %s", p99(hungry), hungry[len(hungry)/2], killed())
	for _, e := range eaters {
		e.stop()
	}
	select {
	case <-s.daemon.exited:
		s.Fatalf("the daemon has ended: %v", s.daemon.err)
	default:
	}
	if now := s.show()[quiet]; now.PID != before[quiet].PID || now.State != control.Running {
		s.Errorf("the quiet AppVM's proxy: %+v, before %+v", now, before[quiet])
	}
	s.stop()
}

// eater is a program that uses up memory, of the small VM and with the score of a proxy.
type eater struct{ stop func() }

// eat starts one that takes 82 MiB: RLIMIT_DATA of a proxy for 100 clients.
func (s *site) eat() *eater {
	s.Helper()
	const script = `echo 500 >/proc/self/oom_score_adj; { head -c 82M /dev/zero; exec sleep 1000; } | tail -c 82M`
	command := slices.Concat(s.within, []string{"setsid", "sh", "-c", script})
	cmd := s.Command(s.Context(), command[0], command[1:]...)
	s.must(cmd.Start())
	var once sync.Once
	e := &eater{stop: func() {
		once.Do(func() {
			for _, pid := range append(s.children(cmd.Process.Pid), fmt.Sprint(cmd.Process.Pid)) {
				var n int
				fmt.Sscan(pid, &n)
				if p, err := os.FindProcess(n); err == nil {
					if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
						s.Error(err)
					}
				}
			}
			cmd.Wait() //nolint:errcheck // it was killed
		})
	}}
	s.Cleanup(e.stop)
	return e
}
