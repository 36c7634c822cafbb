package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/cgroup"
	"vifproxy/tinyproxy/limits"
)

// controllers are those that limit a proxy.
var controllers = []string{"memory", "pids", "cpu"}

const (
	daemonGroup = cgroup.Daemon
	sharedGroup = "proxies" // of all proxies and the resolver, which have one bound of memory together
	proxyPrefix = "proxy-"  // then a number
)

// A groups is the cgroup of the daemon, if systemd has delegated it (Delegate= in the unit).
type groups struct {
	root    *os.Root
	place   string   // where those of proxies are in it: sharedGroup, or "." if it was not delegated
	enabled []string // of controllers
	stayed  error    // what an earlier run has left, and why it cannot be removed
	made    atomic.Uint64

	mu      sync.Mutex
	written map[string]string // limits, by file
}

var (
	errNotDelegated = errors.New("is not delegated")
	errControllers  = errors.New("are there")
)

// groupsRemedy returns what to do about an error of cgroup.Own, openGroups or lacking.
func groupsRemedy(err error) string {
	switch {
	case errors.Is(err, errNotDelegated):
		return "start vifproxyd by its unit, which has Delegate="
	case errors.Is(err, cgroup.ErrNone), errors.Is(err, errControllers):
		return "have the kernel started with systemd.unified_cgroup_hierarchy=1 and without cgroup_disable="
	}
	return "see `systemctl status vifproxyd`"
}

// lacking returns an error if controllers are missing.
func (g *groups) lacking() error {
	if len(g.enabled) == len(controllers) {
		return nil
	}
	return fmt.Errorf("of the controllers %s only [%s] %w", strings.Join(controllers, ", "), strings.Join(g.enabled, ", "),
		errControllers)
}

// openGroups takes over a delegated cgroup. The kernel wants processes in leaves only, so the daemon moves to a group of its
// own. It may be there already, from an earlier run of the same unit or by DelegateSubgroup=.
func openGroups(dir string) (_ *groups, err error) {
	dir = cgroup.Unit(dir)
	if !delegated(dir) {
		return nil, fmt.Errorf("%s %w", dir, errNotDelegated)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			root.Close()
		}
	}()
	g := &groups{root: root, place: sharedGroup}
	for _, name := range []string{daemonGroup, sharedGroup} {
		if err := root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	if err := g.write(daemonGroup+"/cgroup.procs", "0"); err != nil {
		return nil, err
	}
	available, err := root.ReadFile("cgroup.controllers")
	if err != nil {
		return nil, err
	}
	for _, c := range controllers {
		if slices.Contains(strings.Fields(string(available)), c) && g.enable(c) == nil {
			g.enabled = append(g.enabled, c)
		}
	}
	// However many proxies are busy, the daemon must close out AppVMs that have left, and start proxies for those that come.
	// If this fails, the limits still apply.
	if slices.Contains(g.enabled, "cpu") {
		_ = g.set(daemonGroup+"/cpu.weight", "1000")
	}
	var left []*group
	for _, place := range []string{sharedGroup, "."} { // of an earlier run; older daemons had them beside their own
		entries, err := fs.ReadDir(root.FS(), place)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() && strings.HasPrefix(e.Name(), proxyPrefix) {
				c := &group{parent: g, name: path.Join(place, e.Name())}
				c.kill()
				left = append(left, c)
			}
		}
	}
	tries := removeTries // for all: a start of the daemon does not wait longer if there are more
	for _, c := range left {
		g.stayed = errors.Join(g.stayed, c.removeWithin(&tries))
	}
	if err := g.boundAll(); err != nil {
		return nil, err
	}
	return g, nil
}

// boundAll holds all proxies together to what this machine can spare for them. It is called before each start, because the memory of a
// VM of Qubes grows and shrinks while it runs. If they take more, the kernel ends the largest of them, and only of them
// (mem_cgroup_out_of_memory in the kernel's mm/memcontrol.c). Without the bound it would first drop what it can read again, such as
// the pages of programs, and the whole machine would wait for its disk.
func (g *groups) boundAll() error {
	if g.place != sharedGroup || !slices.Contains(g.enabled, "memory") {
		return nil
	}
	all, err := limits.Memory()
	if err != nil {
		return err
	}
	const file = sharedGroup + "/memory.max"
	bound := limits.Together(all)
	now, err := g.read(file)
	if errors.Is(err, fs.ErrNotExist) { // another program has taken the controller away, with all its files
		if err := g.enable("memory"); err != nil {
			return fmt.Errorf("another program has taken the controller memory away from the cgroup of the proxies: %w", err)
		}
		now, err = g.read(file)
	}
	if err != nil || now == shown(bound) {
		return err
	}
	// A bound below what is in use would have the writer wait until processes have ended. What is in use falls to the bound later.
	text, err := g.read(sharedGroup + "/memory.current")
	if err != nil {
		return err
	}
	used, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return err
	}
	return g.set(file, shown(max(bound, used)))
}

// delegated reports whether systemd has marked the cgroup as ours, or has given it to our user. If we are root, we could write
// to any cgroup. systemd before 251 marks it by an attribute that takes CAP_SYS_ADMIN to read.
func delegated(dir string) bool {
	var stat unix.Stat_t
	if uid := os.Geteuid(); uid != 0 && unix.Stat(dir, &stat) == nil && stat.Uid == uint32(uid) {
		return true
	}
	value := make([]byte, 8)
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		if n, err := unix.Getxattr(dir, name, value); err == nil && string(value[:n]) == "1" {
			return true
		}
	}
	return false
}

func (g *groups) write(name, value string) error {
	f, err := g.root.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// A group is the cgroup of one proxy.
type group struct {
	parent *groups
	name   string
	id     uint64 // its inode
}

// add makes a cgroup without limits, and opens its cgroup.procs for a process to enter by. To start the process inside would take
// clone3(2), which systemd's RestrictNamespaces= denies us (252, findings/restricted-namespaces-hide-clone3.sh).
func (g *groups) add() (_ *group, procs *os.File, err error) {
	if err := g.boundAll(); err != nil {
		return nil, nil, fmt.Errorf("bound the memory of all proxies: %w", err)
	}
	c := &group{parent: g}
	for err = fs.ErrExist; errors.Is(err, fs.ErrExist); { // one that an earlier run has left keeps its name
		c.name = path.Join(g.place, fmt.Sprint(proxyPrefix, g.made.Add(1)))
		err = g.root.Mkdir(c.name, 0o755)
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = c.remove()
		}
	}()
	info, err := g.root.Stat(c.name)
	if err != nil {
		return nil, nil, err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		c.id = stat.Ino
	}
	procs, err = g.root.OpenFile(c.name+"/cgroup.procs", os.O_WRONLY, 0)
	return c, procs, err
}

// Shares of the CPU, of the daemon's 1000 (cpu.weight). The resolver works for all AppVMs.
const (
	proxyWeight = "50"
	namesWeight = "200"
)

// limit bounds what the processes in it may use together.
func (c *group) limit(n limits.Needs, weight string) error {
	for _, l := range []struct{ controller, file, value string }{
		{"memory", "memory.max", shown(n.Memory)},
		{"memory", "memory.swap.max", "0"},
		{"memory", "memory.oom.group", "1"}, // ended as a whole
		{"pids", "pids.max", fmt.Sprint(n.Serving)},
		{"cpu", "cpu.weight", weight},
	} {
		if !slices.Contains(c.parent.enabled, l.controller) {
			continue
		}
		err := c.parent.set(c.name+"/"+l.file, l.value)
		if !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return err
			}
			continue
		}
		if l.file == "memory.swap.max" || l.file == "memory.oom.group" { // the kernel may lack swap accounting, or be older than 4.19
			continue
		}
		if err = c.parent.enable(l.controller); err == nil {
			err = c.parent.set(c.name+"/"+l.file, l.value)
		}
		if err != nil {
			return fmt.Errorf("another program has taken the controller %s away from the cgroup of the proxies: %w", l.controller, err)
		}
	}
	return nil
}

// enable has a controller limit the proxies.
func (g *groups) enable(controller string) error {
	err := g.write("cgroup.subtree_control", "+"+controller)
	if err == nil && g.place == sharedGroup {
		err = g.write(sharedGroup+"/cgroup.subtree_control", "+"+controller)
	}
	return err
}

// kill ends all processes in it, even those that left their group or session.
func (c *group) kill() { _ = cgroup.Kill(path.Join(c.parent.root.Name(), c.name)) }

// A cgroup can be removed once the kernel has taken away what was in it.
const (
	removeTries = 500
	removePause = time.Millisecond
)

// remove ends what is left in it, and removes it.
func (c *group) remove() error {
	tries := removeTries
	return c.removeWithin(&tries)
}

// removeWithin is remove with so many tries, of which it takes what it needs, but one at least.
func (c *group) removeWithin(tries *int) error {
	c.parent.forget(c.name + "/")
	for { // dead processes leave in their own time
		c.kill()
		err := c.parent.root.Remove(c.name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if *tries--; !errors.Is(err, unix.EBUSY) || *tries <= 0 {
			return err
		}
		time.Sleep(removePause)
	}
}
