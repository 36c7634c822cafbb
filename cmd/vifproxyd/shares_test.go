package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"vifproxy/internal/lab"
)

// smallTable is nf_conntrack_max in a Qubes VM of 300 MB.
const smallTable = 2048

// withSmallTable has the daemon take connection tracking to have so many places. The kernel has that number for all namespaces
// together, so it stays as it is.
func (s *site) withSmallTable() {
	s.Helper()
	file := filepath.Join(s.dir, "nf_conntrack_max")
	s.must(writeFile(file, []byte(strconv.Itoa(smallTable)), 0o644))
	s.within = append(s.within, "unshare", "--mount", "sh", "-ec",
		"mount --bind "+file+` /proc/sys/net/netfilter/nf_conntrack_max; exec "$@"`, "sh")
}

// tracked returns how many entries connection tracking has in the firewall VM, as the kernel counts them: expired ones too.
func (s *site) tracked() (n int) {
	s.Helper()
	s.must(s.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	}))
	return n
}

// storm has an AppVM open and close 200 connections a second to its proxy until the test is over or stop is called. It sends
// each request, and waits a moment for the answer; an empty request is not sent. The result of stop says how many got one.
func (s *site) storm(vm, request string) (stop func() (opened, answered int)) {
	ctx, cancel := context.WithCancel(s.Context())
	var mu sync.Mutex
	opened, answered := 0, 0
	one := func() {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		conn, err := s.Dial(ctx, vm, "tcp", gateway)
		if err != nil {
			return
		}
		defer conn.Close()
		got := false
		if request != "" {
			deadline, _ := ctx.Deadline()
			_ = conn.SetDeadline(deadline)
			_, _ = io.WriteString(conn, request)
			_, err := conn.Read(make([]byte, 1))
			got = err == nil
		}
		mu.Lock()
		defer mu.Unlock()
		if opened++; got {
			answered++
		}
	}
	var all sync.WaitGroup
	all.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				all.Go(one)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() (int, int) {
		cancel()
		all.Wait()
		return opened, answered
	}
}

// pings has an AppVM ask its gateway for echoes, 200 a second, each as another conversation, until the test is over or stop is called.
// The result of stop says how many it has sent, and how many have come back.
func (s *site) pings(vm string) (stop func() (sent, answered int)) {
	s.Helper()
	var socket *os.File
	s.must(s.DoVM(vm, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		socket = os.NewFile(uintptr(fd), "pings")
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: lab.Gateway.As4()})
	}))
	ctx, cancel := context.WithCancel(s.Context())
	sent, answered := 0, 0
	var all sync.WaitGroup
	all.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			sent++
			m, _ := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: sent & 0xffff}}).Marshal(nil)
			_, _ = socket.Write(m)
		}
	})
	all.Go(func() {
		for buffer := make([]byte, 1500); ; {
			n, err := socket.Read(buffer)
			if err != nil {
				return
			}
			if head := int(buffer[0]&0xf) * 4; n > head && buffer[head] == byte(ipv4.ICMPTypeEchoReply) {
				answered++
			}
		}
	})
	return func() (int, int) {
		cancel()
		socket.Close()
		all.Wait()
		return sent, answered
	}
}

// TestTrackingIsShared: one AppVM pings its gateway 200 times a second, or opens and closes as many connections, without a request and with
// one each. Connection tracking keeps few of them, and the requests of its neighbour succeed. No other test has its address: on a busy
// machine its proxy serves as many as it may.
func TestTrackingIsShared(t *testing.T) {
	onBoth(t, func(s *site) {
		s.withSmallTable()
		s.rules("greedy.10.137.5.11", bank)
		s.rules("quiet.10.137.5.12", shop)
		s.start()
		s.attach("greedy", "10.137.5.11")
		s.attach("quiet", "10.137.5.12")
		s.opens("greedy", "http://bank.example/")
		s.opens("quiet", "http://shop.example/")
		for _, storm := range []struct {
			name  string
			begin func() (stop func() (int, int))
			most  int
		}{
			{"pings", func() func() (int, int) { return s.pings("greedy") }, smallTable / 8},
			{"connections", func() func() (int, int) { return s.storm("greedy", "") }, smallTable / 4},
			// Its connections and its proxy's, 256 each, and those that are over and still there: half of the table (docs/security.md).
			{"requests", func() func() (int, int) {
				return s.storm("greedy", "GET http://bank.example/ HTTP/1.0\r\nHost: bank.example\r\n\r\n")
			}, smallTable / 2},
		} {
			stop := storm.begin()
			most, asked := 0, 0
			for begin := time.Now(); time.Since(begin) < *starveTime; time.Sleep(50 * time.Millisecond) {
				most = max(most, s.tracked())
				if time.Since(begin) > time.Duration(asked)*time.Second {
					asked++
					if err := s.page("quiet", "http://shop.example/"); err != nil {
						s.Errorf("%s: the neighbour's request %d: %v", storm.name, asked, err)
					}
				}
			}
			opened, answered := stop()
			s.Logf("%s: %d a second opened, %d a second answered; %d of the neighbour's requests; %d entries at most", storm.name,
				opened/int(starveTime.Seconds()), answered/int(starveTime.Seconds()), asked, most)
			if most >= storm.most {
				s.Errorf("%s: tracking holds %d entries, want less than %d", storm.name, most, storm.most)
			}
			s.until("what was tracked is forgotten", func() error {
				if n := s.tracked(); n > smallTable/8 {
					return fmt.Errorf("%d entries", n)
				}
				return nil
			})
		}
		s.stop()
	})
}
