package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy/limits"
)

// TestGroups takes over a cgroup as systemd delegates one, in a mount of its own: the hierarchy is the machine's.
// Where its controllers are bound to cgroup v1, there are no limits to test, only the rest.
func TestGroups(t *testing.T) {
	mount := t.TempDir()
	if err := unix.Mount("none", mount, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(mount, unix.MNT_DETACH)
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	_, home, ok := strings.Cut("\n"+string(own), "\n0::")
	if !ok {
		t.Fatalf("in no cgroup: %s", own)
	}
	home = filepath.Join(mount, strings.TrimSpace(strings.SplitN(home, "\n", 2)[0]))
	enter := func(dir string) error { return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0) }

	dir := filepath.Join(mount, fmt.Sprintf("vifproxy-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(enter(home), os.Remove(filepath.Join(dir, daemonGroup)),
			os.Remove(filepath.Join(dir, sharedGroup)), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	}()
	if _, err := openGroups(dir); err == nil || !strings.Contains(err.Error(), "is not delegated") {
		t.Errorf("a cgroup that is not ours: %v", err)
	}
	if err := unix.Setxattr(dir, "trusted.delegate", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	g, err := openGroups(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("controllers %q", g.enabled)
	bound := func() string {
		text, err := g.root.ReadFile(sharedGroup + "/memory.max")
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(text))
	}
	// All proxies have one bound. When the VM has got more memory, or less, the next start sets another one.
	if slices.Contains(g.enabled, "memory") {
		all, err := limits.Memory()
		if err != nil {
			t.Fatal(err)
		}
		want := shown(limits.Together(all))
		if is := bound(); is != want {
			t.Errorf("all proxies may use %s bytes, want %s", is, want)
		}
		// A cgroup that cannot be bounded is not used.
		empty, current := filepath.Join(t.TempDir(), "empty"), filepath.Join(dir, sharedGroup, "memory.current")
		if err := errors.Join(g.write(sharedGroup+"/memory.max", "max"), os.WriteFile(empty, nil, 0o600),
			unix.Mount(empty, current, "", unix.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
		if again, err := openGroups(dir); err == nil || again != nil {
			t.Errorf("without a bound: %v, %v", again, err)
		}
		if err := unix.Unmount(current, 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(g.write(sharedGroup+"/memory.max", "max"), g.boundAll()); err != nil || bound() != want {
			t.Errorf("then they may use %s bytes, want %s: %v", bound(), want, err)
		}
	}

	// Another program takes the memory controller away, and the bound of all proxies with it. It is back before the next start, or there
	// is none.
	usable := g.enabled
	for _, place := range []string{sharedGroup, "."} {
		if err := g.write(filepath.Join(place, "cgroup.subtree_control"), "-memory"); err != nil && slices.Contains(usable, "memory") {
			t.Error(err)
		}
	}
	if _, err := g.root.Stat(sharedGroup + "/memory.max"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("this shows nothing: %v", err)
	}
	g.enabled = controllers
	if err := g.boundAll(); !slices.Contains(usable, "memory") && (err == nil || !strings.Contains(err.Error(), "taken the controller memory")) {
		t.Errorf("without the memory controller: %v", err)
	}
	g.enabled = usable

	// A process that leaves its session, and what it forked, in the proxy's cgroup.
	c, procs, err := g.add()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(usable, "memory") && g.written[sharedGroup+"/memory.max"] != bound() {
		t.Errorf("all proxies may use %s bytes again, and %s were written", bound(), g.written[sharedGroup+"/memory.max"])
	}
	// Another program takes controllers away. They are back at the next limit, or no proxy starts.
	g.enabled = controllers
	for _, controller := range usable {
		if err := g.write(sharedGroup+"/cgroup.subtree_control", "-"+controller); err != nil {
			t.Error(err)
		}
	}
	err = c.limit(limits.Need(100, limits.Rules{}, false), proxyWeight)
	if all := len(usable) == len(controllers); all != (err == nil) || !all && !strings.Contains(err.Error(), "taken the controller") {
		t.Errorf("without controllers, %q of which can be had: %v", usable, err)
	}
	g.enabled = usable

	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	said, output, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	proxy := exec.Command(build(t), strconv.Itoa(os.Getpid()), ProxyScore, "4")
	proxy.ExtraFiles = []*os.File{os.NewFile(uintptr(pair[1]), "orders"), procs}
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	cell := Cell{sandbox: new(Sandbox), limits: "4:0", ruleset: -1, needs: limits.Need(100, limits.Rules{}, false), weight: proxyWeight}
	err = cell.HandOver(Room{c, procs}, pair[0], 65534, int(output.Fd()),
		[]string{"/bin/sh", "-c", "setsid sleep 1000 & echo; sleep 1000"})
	if err := errors.Join(err, output.Close(), unix.Close(pair[0])); err != nil {
		t.Fatal(err)
	}
	cell.Started()
	if _, err := said.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for controller, file := range map[string]string{"memory": "memory.max", "pids": "pids.max", "cpu": "cpu.weight"} {
		limit, err := g.root.ReadFile(c.name + "/" + file)
		if slices.Contains(g.enabled, controller) != (err == nil) || strings.HasPrefix(string(limit), "max") {
			t.Errorf("%s: %q, %v", file, limit, err)
		}
	}
	if weight, err := g.root.ReadFile(daemonGroup + "/cpu.weight"); slices.Contains(g.enabled, "cpu") && string(weight) != "1000\n" {
		t.Errorf("the daemon's cpu.weight: %q, %v", weight, err)
	}
	// Another program changes limits. The sandbox restores them, and says so once.
	for file, other := range map[string]string{
		daemonGroup + "/cpu.weight": "1", sharedGroup + "/memory.max": "max", c.name + "/memory.max": "max", c.name + "/memory.swap.max": "max",
		c.name + "/memory.oom.group": "0", c.name + "/pids.max": "max", c.name + "/cpu.weight": "1",
	} {
		want, there := g.written[file]
		if !there {
			continue
		}
		if err := g.write(file, other); err != nil {
			t.Error(err)
		}
		_, err := g.restore("", 100)
		if is, readErr := g.read(file); err == nil || !strings.Contains(err.Error(), "has written "+other+" into ") || is != want || readErr != nil {
			t.Errorf("%s is %s, want %s: %v; told: %v", file, is, want, readErr, err)
		}
		if _, err := g.restore("", 100); err != nil {
			t.Errorf("told again: %v", err)
		}
	}
	if pids, err := g.root.ReadFile(c.name + "/cgroup.procs"); err != nil || len(strings.Fields(string(pids))) < 2 {
		t.Errorf("shell and background process are not both in the cgroup: %q, %v", pids, err)
	}

	// Another run finds and ends it, and what a daemon has left that had no group for all. What cannot be removed stays, and does not
	// keep it from using cgroups.
	const kept = sharedGroup + "/proxy-2"
	if err := errors.Join(g.root.Mkdir("proxy-1", 0o755), g.root.Mkdir(kept, 0o755), g.root.Mkdir(kept+"/other", 0o755)); err != nil {
		t.Fatal(err)
	}
	again, err := openGroups(filepath.Join(dir, daemonGroup))
	if err != nil {
		t.Fatal(err)
	}
	defer again.root.Close()
	if err := proxy.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the proxy: %v", err)
	}
	if _, err := g.root.Stat(c.name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its cgroup is still there: %v", err)
	}
	if _, err := g.root.Stat("proxy-1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the older one is still there: %v", err)
	}
	if again.stayed == nil || !strings.Contains(again.stayed.Error(), kept+": device or resource busy") {
		t.Errorf("what stays is not told: %v", again.stayed)
	}
	for _, want := range []string{"proxy-1", "proxy-3"} {
		c, procs, err := again.add()
		if err != nil {
			t.Fatal(err)
		}
		if c.name != sharedGroup+"/"+want {
			t.Errorf("a new cgroup is %s, want %s", c.name, want)
		}
		if err := errors.Join(procs.Close(), c.remove()); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(again.root.Remove(kept+"/other"), again.root.Remove(kept)); err != nil {
		t.Error(err)
	}
	g.root.Close()
}

// What goes wrong while nobody listens is said when somebody does.
func TestGroupThatCannotBeEntered(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	said, output, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	shut, err := os.Open(os.DevNull) // not for writing
	if err != nil {
		t.Fatal(err)
	}
	defer shut.Close()
	proxy := exec.Command(build(t), strconv.Itoa(os.Getpid()), ProxyScore, "4")
	proxy.ExtraFiles = []*os.File{os.NewFile(uintptr(pair[1]), "orders"), shut}
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	cell := Cell{sandbox: new(Sandbox), limits: "4:0", ruleset: -1}
	err = cell.HandOver(Room{}, pair[0], 65534, int(output.Fd()), []string{"/bin/true"})
	if err := errors.Join(err, output.Close(), unix.Close(pair[0])); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(said)
	if end := proxy.Wait(); end == nil || err != nil || !strings.Contains(string(text), "cgroup: bad file descriptor") {
		t.Errorf("%v, %v: %s", end, err, text)
	}
}

// build builds vifproxy-confine where every user can execute it.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir, "vifproxy/cmd/vifproxy-confine")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "vifproxy-confine")
}
