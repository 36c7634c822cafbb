//go:build e2e

package packaging

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/lab"
)

// patience is how long a condition may take to come true. It bounds a hang; no test measures time with it.
const patience = 90 * time.Second

var suite = flag.String("suite", "bookworm", "the release of Debian that the machines run")

const (
	// What a firewall VM has that vifproxy needs; and rpm, for the other package.
	includes = "systemd,systemd-sysv,dbus,nftables,iptables,iproute2,procps,tinyproxy,rpm"
	scratch  = "/var/tmp" // not a tmpfs, and not an overlay where others are
)

// debian returns a tree with a Debian that nobody ever writes to: machines lay their own files over it. It is made
// when it is missing, which takes a minute, and stays for the next run.
func debian(t *testing.T) string {
	t.Helper()
	key := sha256.Sum256([]byte(*suite + includes))
	tree := fmt.Sprintf("%s/vifproxy-debian-%s-%x", scratch, *suite, key[:4])
	if _, err := os.Stat(tree); err == nil {
		return tree
	}
	t.Logf("making %s with debootstrap, once", tree)
	partial := scratchDir(t)
	cmd := exec.CommandContext(t.Context(), "debootstrap", "--variant=minbase", "--include="+includes, *suite, partial)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debootstrap: %v\n%s", err, out)
	}
	if err := os.Rename(partial, tree); err != nil && !errors.Is(err, fs.ErrExist) { // else another run was quicker
		t.Fatal(err)
	}
	return tree
}

// scratchDir makes a directory that goes with the test, or, if that is killed, when the next one comes.
func scratchDir(t *testing.T) string {
	t.Helper()
	reclaim(t)
	dir, err := os.MkdirTemp(scratch, fmt.Sprintf("vifproxy-machine-%d-", os.Getpid()))
	must(t, err)
	t.Cleanup(func() { must(t, remove(dir)) })
	must(t, os.Chmod(dir, 0o755))
	return dir
}

// machine is a Debian booted by systemd-nspawn, as a firewall VM of a lab: it has the lab's network for its own. As in
// Qubes its root file system is new at every boot, made from a template, and /rw persists.
type machine struct {
	*testing.T
	*lab.Lab
	dir      string
	template []string // layers, highest first
	boots    int
	domid    int

	nspawn  *exec.Cmd
	console *bytes.Buffer // complete when exited is closed
	exited  chan struct{}
	leader  int // pid of its systemd out here
}

func newMachine(t *testing.T, ruleset lab.Ruleset) *machine {
	t.Helper()
	base := debian(t)
	l, err := lab.New(t.Context(), lab.Options{Ruleset: ruleset})
	must(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	m := &machine{T: t, Lab: l, dir: scratchDir(t), template: []string{base}, domid: 1}
	must(t, os.MkdirAll(filepath.Join(m.rw(), "config"), 0o755))
	t.Cleanup(func() {
		if t.Failed() && m.leader != 0 {
			out, _ := m.try("journalctl", "--no-pager", "--boot", "--lines=150", "--output=short-precise")
			t.Logf("the machine's journal:\n%s", out)
		}
		m.kill()
	})
	return m
}

// reclaim removes what runs that were killed have left.
func reclaim(t *testing.T) {
	left, err := filepath.Glob(scratch + "/vifproxy-machine-*")
	must(t, err)
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(dir, scratch+"/vifproxy-machine-"), "-")
		if _, err := os.Stat("/proc/" + pid); err != nil {
			must(t, remove(dir))
		}
	}
}

func remove(dir string) error {
	if err := unix.Unmount(filepath.Join(dir, "root"), unix.MNT_DETACH); err != nil &&
		!errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return os.RemoveAll(dir)
}

func (m *machine) rw() string       { return filepath.Join(m.dir, "rw") }
func (m *machine) root() string     { return filepath.Join(m.dir, "root") }
func (m *machine) rulesDir() string { return filepath.Join(m.rw(), "config/tinyproxy") }
func (m *machine) layer() string    { return filepath.Join(m.dir, "layer"+strconv.Itoa(m.boots)) }

// newRoot makes a new root file system from the template, with some files over it: by their paths.
func (m *machine) newRoot(files map[string]string) {
	m.Helper()
	m.boots++
	work := m.layer() + ".work"
	for _, dir := range []string{m.layer(), work, m.root()} {
		must(m.T, os.MkdirAll(dir, 0o755))
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(m.template, ":"), m.layer(), work)
	must(m.T, unix.Mount("overlay", m.root(), "overlay", 0, options))
	m.write("/etc/resolv.conf", "nameserver 10.139.1.1\n")
	// Masked: the kernel is the host's. The service of systemd 257 fails without libkmod2, which systemd 252 brings.
	m.write("/etc/systemd/system/systemd-modules-load.service", "")
	for path, text := range files {
		m.write(path, text)
	}
}

// write writes a file of the machine; before its boot, or where nothing is mounted over it.
func (m *machine) write(path, text string) {
	m.Helper()
	path = filepath.Join(m.root(), path)
	must(m.T, os.MkdirAll(filepath.Dir(path), 0o755))
	must(m.T, os.WriteFile(path, []byte(text), 0o644))
}

// boot starts the machine, with no AppVM connected, and waits until all of its units have started.
func (m *machine) boot() {
	m.Helper()
	m.console, m.exited = &bytes.Buffer{}, make(chan struct{})
	m.nspawn = exec.Command("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit",
		"--directory="+m.root(), "--bind="+m.rw()+":/rw", "--machine=vifproxy-e2e",
		"--network-namespace-path=/run/netns/"+m.Name+"-fw", "--capability=all",
		"--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self bpf",
		"--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe")
	// Whatever cgroups the machine out here has.
	m.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	m.nspawn.Stdout, m.nspawn.Stderr = m.console, m.console
	must(m.T, m.nspawn.Start())
	cmd, exited := m.nspawn, m.exited
	go func() {
		cmd.Wait() //nolint:errcheck // told by the state of the machine
		close(exited)
	}()
	m.until("the machine has booted", func() error {
		select {
		case <-m.exited:
			m.Fatalf("systemd-nspawn has ended: %v\n%s", m.nspawn.ProcessState, m.console)
		default:
		}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", m.nspawn.Process.Pid))
		if err != nil {
			return err
		}
		if m.leader, err = strconv.Atoi(strings.TrimSpace(string(children))); err != nil {
			return err
		}
		if out, err := m.try("systemctl", "is-system-running"); err != nil {
			failed, _ := m.try("systemctl", "--failed", "--no-legend")
			return fmt.Errorf("%s: %.500s", strings.TrimSpace(out), failed)
		}
		return nil
	})
}

// halt shuts the machine down. What it had in memory is gone: its packet filter is as at the next boot.
func (m *machine) halt() {
	m.Helper()
	m.run("systemctl", "--no-block", "poweroff")
	select {
	case <-m.exited:
	case <-time.After(patience):
		m.Fatal("the machine does not shut down")
	}
	m.leader = 0
	must(m.T, unix.Unmount(m.root(), 0))
	if m.Ruleset == lab.R42 {
		out, err := m.Command(m.Context(), "nft", "flush", "ruleset").CombinedOutput()
		if err != nil {
			m.Fatalf("nft flush ruleset: %v\n%s", err, out)
		}
	}
	must(m.T, m.LoadRules(m.Context()))
}

// keep makes what the machine's root file system is now, while it is halted, the template of later ones.
func (m *machine) keep() { m.template = append([]string{m.layer()}, m.template...) }

// kill ends the machine, if it runs, whatever it is doing.
func (m *machine) kill() {
	if m.nspawn == nil {
		return
	}
	select {
	case <-m.exited:
		return
	default:
	}
	if m.leader != 0 {
		syscall.Kill(m.leader, syscall.SIGKILL) //nolint:errcheck // it may end by itself just now
	}
	select {
	case <-m.exited:
	case <-time.After(10 * time.Second):
		m.nspawn.Process.Kill() //nolint:errcheck // likewise
		<-m.exited
	}
}

// try runs a program in the machine.
func (m *machine) try(args ...string) (output string, err error) { return m.feed(nil, args...) }

func (m *machine) feed(stdin io.Reader, args ...string) (output string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter",
		append([]string{"--target", strconv.Itoa(m.leader), "--all", "--wd=/", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive"}
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run runs a program that must go well.
func (m *machine) run(args ...string) string {
	m.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// property is one that systemd shows of the unit.
func (m *machine) property(name string) string {
	m.Helper()
	return strings.TrimSpace(m.run("systemctl", "show", "--value", "--property="+name, "vifproxyd.service"))
}

// attach connects an AppVM on a vif of a new domain, in the order in which Xen does.
func (m *machine) attach(name, ip string) string {
	m.Helper()
	m.domid++
	vm := lab.VM{Name: name, IP: netip.MustParseAddr(ip), DomID: m.domid}
	must(m.T, m.Attach(vm))
	return vm.Vif()
}

func (m *machine) until(what string, met func() error) {
	m.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		err := met()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			m.Fatalf("waited in vain until %s: %v", what, err)
		}
	}
}

// page fetches a page of an AppVM through its proxy now.
func (m *machine) page(vm, page string) error {
	r := m.Get(vm, page)
	if r.Err == nil && (r.Status != 200 || !strings.Contains(r.Body, "hello from")) {
		return fmt.Errorf("status %d: %.200s", r.Status, r.Body)
	}
	return r.Err
}

// served waits until an AppVM gets what its list permits, and nothing else.
func (m *machine) served(vm, permitted, refused string) {
	m.Helper()
	m.until(vm+" opens "+permitted, func() error {
		return errors.Join(m.page(vm, "http://"+permitted+"/"), m.page(vm, "https://"+permitted+"/"))
	})
	for _, scheme := range []string{"http", "https"} {
		if r := m.Get(vm, scheme+"://"+refused+"/"); r.Status != 403 {
			m.Errorf("%s gets %d (%v) for %s, want 403", vm, r.Status, r.Err, refused)
		}
	}
}

// proxies are the pids, in the machine, of processes with user ids of vifproxy's.
func (m *machine) proxies() []string {
	m.Helper()
	var pids []string
	for line := range strings.Lines(m.run("ps", "-e", "-o", "uid=,pid=")) {
		var uid uint32
		var pid string
		if _, err := fmt.Sscan(line, &uid, &pid); err == nil && uid>>28 == 7 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// counted are the elements of sets that the kernel fills as packets pass.
var counted = regexp.MustCompile(`(?s)(flags dynamic[^\n]*\n)\t\telements = \{.*?\}\n`)

// counts are how many elements a set has now, as nft 1.1.7 says behind its size, with -s too.
var counts = regexp.MustCompile(`\t# count \d+\n`)

// filter is all rules of the packet filter, without what is counted.
func (m *machine) filter() string {
	m.Helper()
	all := counts.ReplaceAllString(m.run("nft", "-s", "list", "ruleset"), "\n")
	all = counted.ReplaceAllString(all, "$1")
	if m.Ruleset == lab.R41 {
		all += m.run("iptables", "-w", "-S") // with comments
	}
	return all
}

// nothingLeft checks that no rule, chain, process or file of the daemon's is there.
func (m *machine) nothingLeft() {
	m.Helper()
	if pids := m.proxies(); len(pids) > 0 {
		m.Errorf("processes are left: %v", pids)
	}
	if out, err := m.try("pgrep", "-l", "vifproxy"); err == nil {
		m.Errorf("processes are left: %s", out)
	}
	if text := m.filter(); strings.Contains(strings.ToLower(text), "vifproxy") {
		m.Errorf("rules are left:\n%s", text)
	}
	// systemd removes the directories of PrivateTmp= in its own time (asynchronous_rm_rf in src/core).
	m.until("no file of the daemon's is left", func() error {
		if out := m.run("find", "/run", "/tmp", "/var/tmp", "-ignore_readdir_race", "-name", "*vifproxy*",
			"-not", "-path", "/run/systemd/*", "-not", "-path", "/run/qubes-service/*"); out != "" {
			return errors.New(out)
		}
		return nil
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
