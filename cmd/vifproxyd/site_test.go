package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vifproxy/internal/await"
	"vifproxy/internal/lab"
)

// The tests of this package run the real daemon, with real tinyproxies, in a firewall VM made of namespaces.

const (
	bank = `^bank\.example$`
	shop = `^shop\.example$`
)

// patience is how long a condition may take to come true. It bounds a hang; no test measures time with it.
const patience = 2 * time.Minute

// site is a lab with the daemon's directories in it. Tests run side by side, each in a site of its own. These share what the
// kernel keeps for a user: the daemons have one, and so have the proxies of AppVMs with the same address (RLIMIT_NPROC,
// instances of inotify). A test that uses that up has users and addresses of its own.
type site struct {
	*testing.T
	*lab.Lab
	dir    string   // rules, run and the control socket
	binary string   // the daemon's program
	user   int      // of the daemon
	within []string // a program and its arguments that the daemon is started by, such as prlimit
	env    []string // of the daemon, in addition to that of the test
	stderr *os.File // of the daemon, if its log is not to be collected
	domid  int
	vifs   map[string]string // by AppVM
	daemon *running

	store   []*os.File // what systemd keeps of the switchboard, also for a daemon that has crashed
	storeMu sync.Mutex
}

// onBoth runs a test in a lab with each firewall, beside the other tests. In an R4.1 the daemon is root, as who starts it by
// hand, and is the program that is shipped. In an R4.2 it is who its unit has it be, and has the race detector.
func onBoth(t *testing.T, f func(s *site)) {
	onBothRaced(t, func(s *site) {
		if s.Ruleset == lab.R41 {
			s.asShipped()
		}
		f(s)
	})
}

// onBothRaced is onBoth with the race detector in either daemon.
func onBothRaced(t *testing.T, f func(s *site)) {
	t.Parallel()
	var both sync.WaitGroup
	for _, ruleset := range []lab.Ruleset{lab.R42, lab.R41} {
		both.Go(func() { // a parallel subtest would begin after all tests of the package have begun
			t.Run(string(ruleset), func(t *testing.T) { f(newSite(t, ruleset)) })
		})
	}
	both.Wait()
}

// asShipped has the daemon be the program that is shipped, without the race detector.
func (s *site) asShipped() { s.binary = filepath.Join(programs, "vifproxyd") }

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
	s := &site{T: t, Lab: l, dir: dir, binary: filepath.Join(raced, "vifproxyd"), domid: 1, vifs: map[string]string{}}
	if ruleset == lab.R42 {
		s.user = 64123 // as systemd would have chosen one
	}
	t.Cleanup(func() { s.keep(nil) })
	s.must(os.Chmod(dir, 0o755))
	s.must(os.Chown(dir, s.user, 0))
	s.must(os.Mkdir(s.rulesDir(), 0o755))
	return s
}

func (s *site) rulesDir() string { return filepath.Join(s.dir, "rules") }
func (s *site) runDir() string   { return filepath.Join(s.dir, "run") }
func (s *site) stateDir() string { return filepath.Join(s.dir, "state") }
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

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// writeFile writes a file whose descriptor no program inherits that starts meanwhile: what somebody may still write is neither believed
// nor executed.
func writeFile(path string, content []byte, mode os.FileMode) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, content, mode)
}

// rules writes a rule file as an editor does: a new file renamed over the old one.
func (s *site) rules(file string, lines ...string) {
	s.Helper()
	temp := filepath.Join(s.rulesDir(), ".new")
	s.must(writeFile(temp, []byte(strings.Join(append(lines, ""), "\n")), 0o644))
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

// until waits for a condition.
func (s *site) until(what string, met func() error) {
	s.Helper()
	await.Success(s.T, what, met)
}
