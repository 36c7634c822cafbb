package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// TestTwentyRestarts changes the rules each time while no daemon runs, and asks all the while for what only the rules
// of an earlier life permitted.
func TestTwentyRestarts(t *testing.T) {
	onBoth(t, func(s *site) {
		page := func(i int) string { return fmt.Sprintf("http://life%d.example/", i) }
		s.attach("work", "10.137.0.11")
		for i := range 20 {
			s.rules("work.10.137.0.11", fmt.Sprintf(`^life%d\.example$`, i))
			before := s.launch()
			for ready := false; !ready; ready = before.hasTold("READY=1") {
				select {
				case <-before.exited:
					s.Fatalf("vifproxyd has ended: %v", before.err)
				default:
				}
				if r := s.Get("work", page(i-1)); r.Status == 200 {
					s.Errorf("life %d: what an earlier one permitted opens before it is ready", i)
				}
			}
			s.opens("work", page(i))
			s.refuses("work", page(i-1))
			if i%2 == 0 {
				s.stop()
				continue
			}
			s.crash()
			if r := s.Get("work", page(i)); r.Status == 200 {
				s.Errorf("life %d was killed, and its proxy serves", i)
			}
			s.noProxies()
		}
		s.start()
		s.opens("work", page(19))
		s.stop()
	})
}

// asProxy starts a process under a uid of ours in the firewall VM, as a daemon that died might have left it.
func (s *site) asProxy(uid uint32) *exec.Cmd {
	s.Helper()
	cmd := exec.CommandContext(s.Context(), "/bin/sleep", "3600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	s.must(s.Do(cmd.Start))
	return cmd
}

func TestLeftoversAreNotTrusted(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", bank)
		vif := s.attach("work", "10.137.0.11")
		s.start("--switchboard=off") // a binding of the switchboard leads to no foreign socket
		s.opens("work", "http://bank.example/")
		s.crash()

		// A listener on a proxy's port, and rules that lead the AppVM to it.
		var foreign net.Listener
		s.until("the dead proxy's port is free", func() error {
			return s.Do(func() (err error) {
				foreign, err = net.Listen("tcp4", fmt.Sprintf("%s:61000", lab.Gateway))
				return err
			})
		})
		defer foreign.Close()
		came := make(chan bool, 1)
		go func() {
			if conn, err := foreign.Accept(); err == nil {
				conn.Close()
				came <- true
			}
		}()
		s.inFirewall("nft", "flush map ip vifproxy ports; flush set ip vifproxy bindings")
		s.inFirewall("nft", fmt.Sprintf("add element ip vifproxy ports { %s . 10.137.0.11 : %s . 61000 };"+
			"add element ip vifproxy bindings { %[1]s . 10.137.0.11 . 61000 }", vif, lab.Gateway))
		if s.Ruleset == lab.R42 {
			s.inFirewall("nft", fmt.Sprintf("flush set ip qubes vifproxy; add element ip qubes vifproxy { %s . 10.137.0.11 . 61000 }", vif))
		}

		// A process of ours, and one that is not; a file that says there is a proxy, and ones that are not ours.
		mine, other := s.asProxy(0x70000000|137<<16|11), s.asProxy(12345)
		defer other.Process.Kill() //nolint:errcheck // its end is all that is wanted
		gone := make(chan error, 1)
		go func() { gone <- mine.Wait() }()
		fake := filepath.Join(s.runDir(), "work")
		s.must(os.MkdirAll(filepath.Join(fake, "61000"), 0o750))
		s.must(writeFile(filepath.Join(fake, "pid"), fmt.Appendln(nil, os.Getpid()), 0o644))
		s.must(writeFile(filepath.Join(fake, "61000", "rules"), []byte(".\n"), 0o644))
		s.must(os.Lchown(fake, s.user, 0x70000000|137<<16|11))
		s.must(os.Lchown(filepath.Join(fake, "61000"), s.user, 0))
		keep := []string{filepath.Join(s.runDir(), "a file"), filepath.Join(s.runDir(), "dir", "x")}
		s.must(os.Mkdir(filepath.Dir(keep[1]), 0o755))
		for _, path := range keep {
			s.must(writeFile(path, []byte("not ours"), 0o644))
		}

		s.start() // over the dead one's socket, too
		s.opens("work", "http://bank.example/")
		s.refuses("work", "http://shop.example/")
		select {
		case <-came:
			s.Error("the AppVM reached somebody else's process")
		default:
		}
		if vm := s.show()["work"]; vm.Port == 61000 || vm.PID == os.Getpid() {
			s.Errorf("%+v", vm)
		}
		select {
		case err := <-gone:
			if err == nil || !strings.Contains(err.Error(), "killed") {
				s.Errorf("the leftover process: %v", err)
			}
		default:
			s.Errorf("the leftover process, pid %d, is still there", mine.Process.Pid)
		}
		if err := other.Process.Signal(syscall.Signal(0)); err != nil {
			s.Errorf("a process that is not ours: %v", err)
		}
		if !strings.Contains(s.daemon.log.String(), "ended proxies that an earlier run had left") {
			s.Error("the log does not tell of it")
		}
		s.stop()
		for _, path := range keep {
			if text, err := os.ReadFile(path); err != nil || string(text) != "not ours" {
				s.Errorf("what is not ours: %q, %v", text, err)
			}
		}
		if _, err := os.Stat(fake); !errors.Is(err, os.ErrNotExist) {
			s.Errorf("what is ours is left: %v", err)
		}
	})
}

// TestManyComeBackTogether has more AppVMs than are started one by one in the time that it takes to be ready.
func TestManyComeBackTogether(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("vm%d", i))
		ip := fmt.Sprintf("10.137.0.%d", 10+i)
		s.rules(names[i]+"."+ip, bank)
		s.attach(names[i], ip)
	}
	for range 2 {
		s.start()
		s.until("all are back", func() error {
			vms := s.show()
			if i := slices.IndexFunc(names, func(n string) bool { return vms[n].State != control.Running }); i >= 0 {
				return fmt.Errorf("%+v", vms[names[i]])
			}
			return nil
		})
		for _, name := range names {
			if err := s.page(name, "http://bank.example/"); err != nil {
				s.Errorf("%s: %v", name, err)
			}
		}
		s.crash()
	}
	s.start()
	s.stop()
}
