package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/internal/lab"
	"vifproxy/internal/simulate/model"
)

// This file is what the daemon has to do without in the chaos run: a reader of its log, inotify, descriptors, tasks, disk, events.

// ofChaos is the user of the daemon, of its own: the kernel counts instances of inotify by user.
const ofChaos = 64124

// logReader reads what a daemon logs, but for when it does not.
type logReader struct {
	gate    sync.Mutex    // held while it does not read
	stopped bool          // whether it is held
	over    chan struct{} // closed when all is read
}

// reads has it read, or not.
func (r *logReader) reads(on bool) {
	switch {
	case on && r.stopped:
		r.gate.Unlock()
	case !on && !r.stopped:
		r.gate.Lock()
	}
	r.stopped = !on
}

// launchRead starts the daemon, with its log read by somebody who may stop.
func (c *chaos) launchRead() *running {
	r, w, err := os.Pipe()
	c.must(err)
	defer w.Close()
	_, err = unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096)
	c.must(err)
	c.stderr = w
	under := c.court.Under()
	if !c.asBefore {
		c.flags = nil
		if c.Ruleset == lab.R42 && c.rng.IntN(4) == 0 {
			c.flags = []string{"--switchboard=off"}
		}
		under = c.rng.IntN(3) == 0
		if under {
			c.flags = append(c.flags, "--ceiling="+c.ceilingPath())
		}
	}
	c.court.change(func(m *model.Model) { m.Starts(under) })
	d := c.launch(append([]string{"--qubesdb=" + c.db.Socket, "--qubes-firewall=on"}, c.flags...)...)
	over := make(chan struct{})
	c.reader.over = over
	go func() {
		defer close(over)
		defer r.Close()
		buffer := make([]byte, 4096)
		for {
			n, err := r.Read(buffer)
			c.reader.gate.Lock()
			d.log.Write(buffer[:n])
			c.reader.gate.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return d
}

// stopJournal has nobody read the log until all is mended.
func (c *chaos) stopJournal() string {
	c.reader.reads(false)
	return ""
}

// harmless are actions that may happen while the daemon lacks something: none of them waits for it.
var harmless = []action{
	{0, "attach", (*chaos).attachOne},
	{0, "detach", (*chaos).detachOne},
	{0, "flap", (*chaos).flap},
	{0, "edit", (*chaos).edit},
	{0, "add host", (*chaos).addHost},
	{0, "bad edit", (*chaos).badEdit},
	{0, "template", (*chaos).editTemplate},
	{0, "kill proxies", (*chaos).killProxies},
	{0, "foreign rules", (*chaos).foreignRules},
	{0, "delete the fence", (*chaos).deleteFence},
	{0, "link", (*chaos).link},
}

// meanwhile does some of them.
func (c *chaos) meanwhile() (what string) {
	for range 1 + c.rng.IntN(3) {
		a := harmless[c.rng.IntN(len(harmless))]
		what += fmt.Sprintf("; %s %s", a.name, a.do(c))
		c.moment()
	}
	return what
}

// noInotify has the daemon start anew while its user has no instance of inotify left.
func (c *chaos) noInotify() string {
	how := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[c.rng.IntN(2)]
	if c.user == 0 {
		return "root has other programs"
	}
	taken := c.takeInotify()
	c.end(how)
	c.up(c.rng.IntN(2) == 0)
	what := c.meanwhile()
	for _, fd := range taken {
		unix.Close(fd)
	}
	return fmt.Sprintf("%d taken%s", len(taken), what)
}

// takeInotify takes all instances that the daemon's user has left.
func (c *chaos) takeInotify() (taken []int) {
	err := c.asDaemon(func() error {
		for {
			fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
			if err != nil {
				return err
			}
			taken = append(taken, fd)
		}
	})
	if !errors.Is(err, unix.EMFILE) {
		c.Fatalf("use up inotify: %v", err)
	}
	return taken
}

// asDaemon does something on a thread that is the daemon's user.
func (c *chaos) asDaemon(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its user
		user := uintptr(c.user)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, user, user, user); errno != 0 {
			done <- errno
			return
		}
		done <- do()
	}()
	return <-done
}

// noDescriptors lets the daemon open nothing for a while.
func (c *chaos) noDescriptors() string {
	if !c.isReady() {
		return "not now" + c.meanwhile()
	}
	pid := c.daemon.cmd.Process.Pid
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	c.must(err)
	c.court.change(func(m *model.Model) { m.Lack(true) })
	restore := c.limit(pid, unix.RLIMIT_NOFILE, uint64(len(open)))
	c.late = true
	what := c.meanwhile()
	restore()
	c.court.change(func(m *model.Model) { m.Lack(false) })
	return what
}

// noTasks lets the daemon start no thread and no process for a while. The Go runtime ends a program that needs a thread and
// gets none: then proxies end with it, as in a crash.
func (c *chaos) noTasks() string {
	if c.user == 0 || !c.isReady() {
		return "not now" + c.meanwhile()
	}
	d := c.daemon
	c.mu.Lock()
	c.ended[d] = true
	c.mu.Unlock()
	c.court.change(func(m *model.Model) { m.Disturb(); m.Lack(true) })
	c.late = true
	restore := c.limit(d.cmd.Process.Pid, unix.RLIMIT_NPROC, 1)
	what := c.meanwhile()
	restore()
	c.court.change(func(m *model.Model) { m.Lack(false) })
	c.moment()
	select {
	case <-d.exited:
		c.counts["daemons without a thread"]++
		c.hasEnded(d)
		return "the daemon has ended" + what
	default:
	}
	c.mu.Lock()
	delete(c.ended, d)
	c.mu.Unlock()
	return what
}

// removeSocket takes the daemon's control socket away. It comes back by itself.
func (c *chaos) removeSocket() string {
	c.late = true
	os.Remove(c.socket()) //nolint:errcheck // there may be none
	return ""
}

// limit sets a soft limit of the daemon.
func (c *chaos) limit(pid, resource int, most uint64) (restore func()) {
	set := func(now, before *unix.Rlimit) { // CAP_SYS_RESOURCE would do too
		if err := c.asDaemon(func() error { return unix.Prlimit(pid, resource, now, before) }); !errors.Is(err, unix.ESRCH) {
			c.must(err)
		}
	}
	var before unix.Rlimit
	set(nil, &before)
	set(&unix.Rlimit{Cur: most, Max: before.Max}, nil)
	return func() { set(&before, nil) }
}

func (c *chaos) fill() string {
	if c.full {
		return "is full"
	}
	c.full = true
	c.court.change(func(m *model.Model) { m.Lack(true) })
	file, err := os.Create(filepath.Join(c.runDir(), ".filler"))
	c.must(err)
	defer file.Close()
	for chunk := make([]byte, 256<<10); len(chunk) > 0; {
		if _, err := file.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
	return ""
}

func (c *chaos) free() {
	if c.full {
		c.full = false
		c.must(os.Remove(filepath.Join(c.runDir(), ".filler")))
		c.court.change(func(m *model.Model) { m.Lack(false) })
	}
}

// storm makes more events, of links and of files, than the kernel keeps for a daemon that has no time to
// read them. An AppVM comes meanwhile.
func (c *chaos) storm() string {
	if !c.court.Down() {
		c.must(c.daemon.cmd.Process.Signal(syscall.SIGSTOP))
		defer func() { c.must(c.daemon.cmd.Process.Signal(syscall.SIGCONT)) }()
	}
	what := c.attachOne()
	moves := 0
	c.must(c.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		link, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		to, err := netlink.ParseIPNet("100.64.0.1/32")
		if err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK}
		// Where other tests keep the kernel's lock of the network, it takes minutes; and the pipe is full in seconds into
		// which a proxy writes what a daemon that stands still does not read.
		for end := time.Now().Add(2 * time.Second); moves < 8000 && time.Now().Before(end); moves++ {
			if err := errors.Join(h.RouteAdd(route), h.RouteDel(route)); err != nil {
				return err
			}
		}
		return nil
	}))
	for n, end := 0, time.Now().Add(time.Second); n < 9000 && time.Now().Before(end); n++ {
		path := filepath.Join(c.rulesDir(), fmt.Sprintf(".burst%d", n))
		c.must(writeFile(path, nil, 0o644))
		c.must(os.Remove(path))
	}
	return fmt.Sprintf("%s %d routes", what, moves)
}
