package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// programs is where TestMain has built the real programs, race detector included.
var programs string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		os.Setenv("GORACE", "atexit_sleep_ms=10") // instead of a second, at the end of each program
		dir, err := os.MkdirTemp("", "vifproxy-programs-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		programs = dir
		if err := os.Chmod(dir, 0o755); err != nil { // the daemon is not always root
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for _, args := range [][]string{
			{"-race", "vifproxy/cmd/vifproxyd", "vifproxy/cmd/vifproxyctl"},
			{"vifproxy/cmd/vifproxy-confine"}, // as shipped: the race detector needs more than a proxy may have
		} {
			build := exec.Command("go", append([]string{"build", "-o", dir}, args...)...)
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build the programs under test: %v\n%s", err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// patience is how long a condition may take to come true. It bounds a hang; no test measures time with it.
const patience = 30 * time.Second

// site is a lab with the daemon's directories in it.
type site struct {
	*testing.T
	*lab.Lab
	dir    string // rules, run and the control socket
	user   int    // of the daemon
	domid  int
	vifs   map[string]string // by AppVM
	daemon *running
}

// onBoth runs a test in a lab with each firewall. In an R4.1 the daemon is root, as who starts it by hand; in an R4.2 it
// is who its unit has it be.
func onBoth(t *testing.T, f func(s *site)) {
	for _, ruleset := range []lab.Ruleset{lab.R42, lab.R41} {
		t.Run(string(ruleset), func(t *testing.T) {
			t.Parallel()
			f(newSite(t, ruleset))
		})
	}
}

func newSite(t *testing.T, ruleset lab.Ruleset) *site {
	t.Helper()
	l, err := lab.New(t.Context(), lab.Options{Ruleset: ruleset})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	dir, err := os.MkdirTemp("/run", "vifproxy-test-") // proxies must be able to pass it: not under a 0700 TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{T: t, Lab: l, dir: dir, domid: 1, vifs: map[string]string{}}
	if ruleset == lab.R42 {
		s.user = 64123 // as systemd would have chosen one
	}
	s.must(os.Chmod(dir, 0o755))
	s.must(os.Chown(dir, s.user, 0))
	s.must(os.Mkdir(s.rulesDir(), 0o755))
	return s
}

func (s *site) rulesDir() string { return filepath.Join(s.dir, "rules") }
func (s *site) runDir() string   { return filepath.Join(s.dir, "run") }
func (s *site) socket() string   { return filepath.Join(s.dir, "control.sock") }

// inMemory gives the daemon a runtime directory with so much room.
func (s *site) inMemory(size string) {
	s.Helper()
	s.must(os.Mkdir(s.runDir(), 0o755))
	s.must(syscall.Mount("tmpfs", s.runDir(), "tmpfs", 0, fmt.Sprintf("size=%s,mode=755,uid=%d", size, s.user)))
	s.Cleanup(func() {
		if err := syscall.Unmount(s.runDir(), syscall.MNT_DETACH); err != nil {
			s.Error(err)
		}
	})
}

// unit is what vifproxyd.service gives the daemon: a user, root's group, capabilities.
func (s *site) unit() []string {
	if s.user == 0 {
		return nil
	}
	const caps = "-all,+net_admin,+setuid,+setgid,+setpcap,+kill"
	return []string{"setpriv", fmt.Sprintf("--reuid=%d", s.user), "--regid=0", "--clear-groups", "--no-new-privs",
		"--inh-caps=" + caps, "--ambient-caps=" + caps, "--bounding-set=" + caps}
}

// vifproxyd prepares the daemon to run in the firewall VM.
func (s *site) vifproxyd(ctx context.Context, flags ...string) *exec.Cmd {
	command := slices.Concat(s.unit(), []string{filepath.Join(programs, "vifproxyd"),
		"--rules-dir=" + s.rulesDir(), "--runtime-dir=" + s.runDir(), "--control-socket=" + s.socket(),
		"--log-format=text", "--log-level=debug"}, flags)
	return s.Command(ctx, command[0], command[1:]...)
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// rules writes a rule file as an editor does: a new file renamed over the old one.
func (s *site) rules(file string, lines ...string) {
	s.Helper()
	temp := filepath.Join(s.rulesDir(), ".new")
	s.must(os.WriteFile(temp, []byte(strings.Join(append(lines, ""), "\n")), 0o644))
	s.must(os.Rename(temp, filepath.Join(s.rulesDir(), file)))
}

func (s *site) removeRules(file string) {
	s.Helper()
	s.must(os.Remove(filepath.Join(s.rulesDir(), file)))
}

// attach connects an AppVM on a vif of a new domain and returns the vif's name.
func (s *site) attach(name, ip string) string {
	s.Helper()
	vm := s.next(name, ip)
	s.must(s.Attach(vm))
	s.vifs[name] = vm.Vif()
	return vm.Vif()
}

func (s *site) next(name, ip string) lab.VM {
	s.domid++
	return lab.VM{Name: name, IP: netip.MustParseAddr(ip), DomID: s.domid}
}

func (s *site) detach(name string) {
	s.Helper()
	s.must(s.Detach(s.vifs[name]))
	delete(s.vifs, name)
}

// running is a vifproxyd.
type running struct {
	cmd    *exec.Cmd
	log    *lockedBuffer
	exited chan struct{}
	err    error
	notify *net.UnixConn
	mu     sync.Mutex
	told   []string // what it told systemd
}

// start runs vifproxyd in the firewall VM as systemd would and waits until it says that it is ready.
func (s *site) start(flags ...string) {
	s.Helper()
	d := s.launch(flags...)
	s.until("the daemon is ready", func() error {
		select {
		case <-d.exited:
			s.Fatalf("vifproxyd has ended: %v", d.err)
		default:
		}
		if !d.hasTold("READY=1") {
			return errors.New("no READY=1 yet")
		}
		return nil
	})
}

func (s *site) launch(flags ...string) *running {
	s.Helper()
	path := filepath.Join(s.dir, "notify.sock")
	os.Remove(path)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	s.must(err)
	s.must(os.Chmod(path, 0o777))
	d := &running{
		cmd: s.vifproxyd(context.Background(), flags...),
		log: &lockedBuffer{}, exited: make(chan struct{}), notify: notify,
	}
	d.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	s.must(d.cmd.Start())
	s.daemon = d
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := notify.Read(buffer)
			if err != nil {
				return
			}
			d.mu.Lock()
			d.told = append(d.told, string(buffer[:n]))
			d.mu.Unlock()
		}
	}()
	go func() {
		d.err = d.cmd.Wait()
		close(d.exited)
	}()
	s.Cleanup(func() {
		d.cmd.Process.Kill() //nolint:errcheck // it may have ended, as most tests have it do
		<-d.exited
		notify.Close()
		if text := d.log.String(); s.Failed() && text != "" {
			s.Logf("vifproxyd said:\n%s", text)
		}
		s.noRace(d)
	})
	return d
}

// clean runs `vifproxyd --clean`.
func (s *site) clean() (output string, err error) {
	out, err := s.vifproxyd(s.Context(), "--clean").CombinedOutput()
	return string(out), err
}

func (d *running) hasTold(state string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.told, func(s string) bool { return strings.Contains(s, state) })
}

// stop ends the daemon as systemd does, and checks that nothing of it is left.
func (s *site) stop() {
	s.Helper()
	s.must(s.daemon.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-s.daemon.exited:
	case <-time.After(patience):
		s.Fatal("vifproxyd does not end on SIGTERM")
	}
	if s.daemon.err != nil {
		s.Errorf("vifproxyd's end: %v", s.daemon.err)
	}
	s.nothingLeft()
}

// noRace checks what the race detector had to say.
func (s *site) noRace(d *running) {
	s.Helper()
	if text := d.log.String(); strings.Contains(text, "DATA RACE") {
		s.Errorf("data race in vifproxyd:\n%s", text)
	}
}

// crash ends the daemon with SIGKILL.
func (s *site) crash() {
	s.Helper()
	s.must(s.daemon.cmd.Process.Kill())
	<-s.daemon.exited
}

// lockedBuffer is a bytes.Buffer for one writer and readers meanwhile.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// takeTail empties the buffer and returns its last lines, at most n bytes of them.
func (b *lockedBuffer) takeTail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.b.Bytes()
	tail := string(text[max(0, len(text)-n):])
	b.b = bytes.Buffer{}
	return tail
}

// until waits for a condition.
func (s *site) until(what string, met func() error) {
	s.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
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
			s.Fatalf("waited in vain until %s: %v", what, err)
		}
	}
}

// opens waits until an AppVM's page opens.
func (s *site) opens(vm string, pages ...string) {
	s.Helper()
	for _, page := range pages {
		s.until(fmt.Sprintf("%s opens %s", vm, page), func() error { return s.page(vm, page) })
	}
}

// page fetches a page now and checks that it is the origin's.
func (s *site) page(vm, page string) error {
	r := s.Get(vm, page)
	if r.Err != nil {
		return r.Err
	}
	if r.Status != 200 || !strings.Contains(r.Body, "hello from") {
		return fmt.Errorf("status %d: %.200s", r.Status, r.Body)
	}
	return nil
}

// refuses checks that the AppVM's proxy is there and says no.
func (s *site) refuses(vm string, pages ...string) {
	s.Helper()
	for _, page := range pages {
		if r := s.Get(vm, page); r.Status != 403 {
			s.Errorf("%s gets %d (%v) for %s, want 403", vm, r.Status, r.Err, page)
		}
	}
}

// cutOff checks that an AppVM reaches nothing at its proxy port.
func (s *site) cutOff(vm string) error {
	ctx, cancel := context.WithTimeout(s.Context(), 2*time.Second)
	defer cancel()
	conn, err := s.Dial(ctx, vm, "tcp", fmt.Sprintf("%s:%d", lab.Gateway, lab.ProxyPort))
	if err == nil {
		conn.Close()
		return errors.New("it reaches something at its proxy port")
	}
	return nil
}

// ctl runs vifproxyctl.
func (s *site) ctl(args ...string) (stdout, stderr string, status int) {
	s.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(filepath.Join(programs, "vifproxyctl"), append([]string{"--socket=" + s.socket()}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		s.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// update runs `vifproxyctl update`, which returns when all is done, and must go well.
func (s *site) update() {
	s.Helper()
	if _, errs, status := s.ctl("update"); status != 0 {
		s.Fatalf("update: exit status %d: %s", status, errs)
	}
}

// show is what `vifproxyctl show --json` says, by name.
func (s *site) show() map[string]control.VM {
	s.Helper()
	out, errs, status := s.ctl("show", "--json")
	if status != 0 {
		s.Fatalf("show: exit status %d: %s", status, errs)
	}
	var vms []control.VM
	s.must(json.Unmarshal([]byte(out), &vms))
	byName := map[string]control.VM{}
	for _, vm := range vms {
		byName[vm.Name] = vm
	}
	return byName
}

func (s *site) untilState(name, state string) control.VM {
	s.Helper()
	var vm control.VM
	s.until(name+" is "+state, func() error {
		if vm = s.show()[name]; vm.State != state {
			return fmt.Errorf("it is %q: %s", vm.State, vm.Error)
		}
		return nil
	})
	return vm
}

// proxies are the processes of our user ids in the firewall VM's network.
func (s *site) proxies() (pids []int) {
	s.Helper()
	s.must(s.Do(func() error {
		here, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		processes, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		for _, dir := range processes {
			var stat syscall.Stat_t
			if syscall.Stat(dir, &stat) != nil || stat.Uid>>28 != 7 {
				continue
			}
			if there, err := os.Readlink(dir + "/ns/net"); err == nil && there == here {
				var pid int
				fmt.Sscan(filepath.Base(dir), &pid)
				pids = append(pids, pid)
			}
		}
		return nil
	}))
	return pids
}

// inFirewall runs a program in the firewall VM and returns what it prints.
func (s *site) inFirewall(name string, args ...string) string {
	s.Helper()
	out, err := s.Command(s.Context(), name, args...).CombinedOutput()
	if err != nil {
		s.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ruleset is all rules of the firewall VM as text, without counters.
func (s *site) ruleset() string {
	s.Helper()
	if s.Ruleset == lab.R42 {
		return s.inFirewall("nft", "-s", "list", "ruleset")
	}
	var all strings.Builder
	for _, table := range []string{"raw", "nat", "filter"} {
		all.WriteString(s.inFirewall("iptables", "-t", table, "-S"))
	}
	return all.String()
}

// noProxies waits until nothing of a daemon that was killed runs any more.
func (s *site) noProxies() {
	s.Helper()
	s.until("no proxy of ours is left", func() error {
		if pids := s.proxies(); len(pids) > 0 {
			return fmt.Errorf("%v", pids)
		}
		return nil
	})
}

func (s *site) nothingLeft() {
	s.Helper()
	if pids := s.proxies(); len(pids) > 0 {
		s.Errorf("proxies left: %v", pids)
	}
	if text := s.ruleset(); strings.Contains(strings.ToLower(text), "vifproxy") {
		s.Errorf("rules left:\n%s", text)
	}
}
