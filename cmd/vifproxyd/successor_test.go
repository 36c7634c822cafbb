package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/await"
	"vifproxy/internal/events"
	"vifproxy/internal/lab"
	"vifproxy/internal/proxies"
)

// TestClientsThatHoldAllConnections: the clients of an AppVM hold both connections that its proxy serves at once, and a third one waits.
// After a minute another process serves who comes then, and the tunnels go on. A proxy whose requests end meanwhile has no successor.
// Where MaxClients is 2, RLIMIT_NPROC is 54, so no other test has AppVMs with these addresses.
func TestClientsThatHoldAllConnections(t *testing.T) {
	onBoth(t, func(s *site) {
		s.template("MaxClients 100", "MaxClients 2")
		s.rules("stuck.10.137.4.11", bank)
		s.rules("busy.10.137.4.12", bank)
		s.start()
		s.attach("stuck", "10.137.4.11")
		s.attach("busy", "10.137.4.12")
		s.opens("stuck", "http://bank.example/")
		s.opens("busy", "http://bank.example/")
		before := s.show()
		watched := s.watch()
		s.untilTold(watched, 0, "itself", named(events.Watching))
		began := time.Now()

		silent := func(vm string) net.Conn {
			conn, err := s.Dial(s.Context(), vm, "tcp", gateway)
			s.must(err)
			return conn
		}
		tunnels := []net.Conn{s.tunnel("stuck", "bank.example:443"), s.tunnel("stuck", "bank.example:443")}
		defer silent("stuck").Close()
		s.tunnel("busy", "bank.example:443")
		slow := make(chan struct{})
		go func() { // the other connection of the busy one is another one each second, and one more always waits for it
			defer close(slow)
			served := silent("busy")
			for time.Since(began) < proxies.HeldTime+2*proxies.HeldInterval {
				waits := silent("busy")
				time.Sleep(time.Second)
				served.Close()
				served = waits
			}
			served.Close()
		}()

		s.untilTold(watched, 0, "a proxy that is full", func(e events.Event) bool { return e.Event == "proxy-full" && e.VM == "stuck" })
		if took := time.Since(began); took < proxies.HeldTime {
			s.Errorf("told after %v", took)
		}
		s.until("another process serves", func() error {
			if now := s.show()["stuck"]; now.PID == before["stuck"].PID {
				return fmt.Errorf("%+v", now)
			}
			return s.page("stuck", "http://bank.example/")
		})
		for i, tunnel := range tunnels {
			s.must(tunnel.SetReadDeadline(time.Now().Add(100 * time.Millisecond)))
			if _, err := tunnel.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				s.Errorf("tunnel %d: %v", i, err)
			}
		}
		await.Value(s.T, "the end of the busy clients", slow)
		if now := s.show()["busy"]; now.PID != before["busy"].PID {
			s.Errorf("the busy one has another process: %+v", now)
		}
		s.stop()
	})
}

// Somebody has stopped a proxy, so that it accepts nobody: another one serves when a client has waited for a minute.
func TestAProxyThatStandsStillIsReplaced(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.73.11", bank)
		s.attach("work", "10.137.73.11")
		s.start()
		s.opens("work", "http://bank.example/")
		proxy := s.untilState("work", control.Running).PID
		s.must(unix.Kill(proxy, unix.SIGSTOP))
		waits, err := s.Dial(s.Context(), "work", "tcp4", net.JoinHostPort(lab.Gateway.String(), fmt.Sprint(lab.ProxyPort)))
		s.must(err)
		defer waits.Close()
		s.until("another process serves", func() error {
			if vm := s.show()["work"]; vm.PID == proxy || vm.State != control.Running {
				return fmt.Errorf("%+v", vm)
			}
			return nil
		})
		s.opens("work", "http://bank.example/")
		if log := s.daemon.log.String(); !strings.Contains(log, "accepts nobody, and clients have waited for 1m0s") {
			s.Error("the log does not say why")
		}
		s.until("the one that was stopped is gone", func() error { return gone(proxy) })
		s.stop()
	})
}

func gone(pid int) error {
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: %v", pid, err)
	}
	return nil
}
