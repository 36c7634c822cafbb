package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/lab"
	"vifproxy/tinyproxy"
)

const workUIDOfProxy = 0x7089000b // of 10.137.0.11

// resolver returns the process that answers questions for names.
func (s *site) resolver() (pid int) {
	s.Helper()
	s.until("the resolver runs", func() error {
		for _, status := range s.children(s.daemon.cmd.Process.Pid) {
			if n, _ := strconv.Atoi(status); s.status(n, "Uid") == tinyproxy.NamesUID {
				pid = n
				return nil
			}
		}
		return fmt.Errorf("not among the daemon's children")
	})
	return pid
}

// The event owned tells of a proxy that asks for a name that is not on its list. With --on-owned=hold its AppVM is stopped until a person
// starts it, and no other AppVM is.
func TestAnOwnedProxyIsHeld(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", bank)
		s.rules("other.10.137.0.12", bank)
		s.start("--on-owned=hold")
		watched := s.watch()
		s.untilTold(watched, 0, "itself", named(events.Watching))
		s.attach("work", "10.137.0.11")
		s.attach("other", "10.137.0.12")
		s.opens("work", "http://bank.example/", "https://bank.example/")
		s.opens("other", "http://bank.example/")
		s.refuses("work", "http://unlisted.example/") // tinyproxy asks for none of these
		if _, _, err := s.Question(workUIDOfProxy, netip.MustParseAddr("10.139.1.1"), "bank.example"); err != nil {
			t.Errorf("a listed name: %v", err)
		}
		if vm := s.show()["work"]; vm.State != control.Running {
			t.Fatalf("before: %+v", vm)
		}
		addrs, _, err := s.Question(workUIDOfProxy, netip.MustParseAddr("203.0.113.53"), "secret.example")
		if err == nil || !strings.HasSuffix(err.Error(), dnsmessage.RCodeRefused.String()) {
			t.Errorf("a name that is not listed: %v, %v", addrs, err)
		}
		s.untilTold(watched, 0, "the owned proxy", func(e events.Event) bool {
			return e.Event == "owned" && e.VM == "work" && e.Host == "secret.example" && e.What == "A" && e.Count == 1
		})
		vm := s.untilState("work", control.Stopped)
		if !strings.Contains(vm.StoppedBy, "secret.example") {
			t.Errorf("stopped by %q", vm.StoppedBy)
		}
		if out, _, _ := s.ctl("show"); !strings.Contains(out, "stopped by --on-owned=hold, because its proxy asked for secret.example: vifproxyctl start work") {
			t.Errorf("show says\n%s", out)
		}
		s.opens("other", "http://bank.example/")
		s.stop()
		s.start("--on-owned=hold") // and stays so
		s.untilState("work", control.Stopped)
		s.does("start", "work")
		s.opens("work", "http://bank.example/")
		s.stop()
	})
}

// Without a resolver nothing opens that was not open. The next one is there at once, and answers the questions that have waited.
func TestTheResolverDies(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", bank, `^shop[0-9]*\.example$`)
	s.start()
	s.attach("work", "10.137.0.11")
	s.opens("work", "http://bank.example/")
	for i := range 5 {
		pid := s.resolver()
		s.must(unix.Kill(pid, unix.SIGKILL))
		s.opens("work", fmt.Sprintf("http://shop%d.example/", i))
		if now := s.resolver(); now == pid {
			t.Errorf("%d has survived SIGKILL", pid)
		}
	}
	s.must(unix.Kill(s.resolver(), unix.SIGSTOP)) // somebody who has taken it over may do as much
	s.opens("work", "http://shop99.example/")
	s.stop()
}

// The resolver is confined as proxies are, and nothing of it is left when the daemon has ended.
func TestTheResolverIsConfined(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", bank)
	s.start()
	pid := s.resolver()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	s.must(err)
	for _, line := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000"} {
		if !strings.Contains(string(status), line) {
			t.Errorf("no %q in\n%s", line, status)
		}
	}
	shown, err := control.NewClient(s.socket()).Status(t.Context())
	s.must(err)
	if names := shown.Setup.Names; names.UID != tinyproxy.NamesUID || strings.Join(names.Servers, " ") != "10.139.1.1 10.139.1.2" {
		t.Errorf("show says %+v", names)
	}
	s.crash()
	s.until("the resolver has ended with the daemon", func() error {
		if unix.Kill(pid, 0) == nil {
			return fmt.Errorf("%d lives", pid)
		}
		return nil
	})
}
