package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/await"
	"vifproxy/internal/lab"
)

var refusals = flag.Int("refusals", 5000, "how many refused requests TestHostileAppVM sends")

// hostile is the AppVM that the tests of this file use against the firewall VM, and gateway where its proxy is.
const hostile = "evil"

var gateway = netip.AddrPortFrom(lab.Gateway, lab.ProxyPort).String()

// inHostile runs f some times at once in the hostile AppVM, with connections to its proxy at hand.
func (s *site) inHostile(times int, f func(dial func() (net.Conn, error)) error) {
	var workers sync.WaitGroup
	for range times {
		workers.Go(func() {
			err := s.DoVM(hostile, func() error {
				return f(func() (net.Conn, error) { return net.DialTimeout("tcp", gateway, 200*time.Millisecond) })
			})
			if err != nil {
				s.Error(err)
			}
		})
	}
	workers.Wait()
}

// latency is the median of some requests of an AppVM, none of which may fail.
func (s *site) latency(vm string) time.Duration {
	s.Helper()
	var all []time.Duration
	for range 41 {
		begin := time.Now()
		s.must(s.page(vm, "http://bank.example/"))
		all = append(all, time.Since(begin))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// status reads a number from /proc/PID/status of a process.
func (s *site) status(pid int, name string) int {
	s.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	s.must(err)
	_, rest, _ := strings.Cut(string(text), name+":")
	var n int
	fmt.Sscan(rest, &n)
	return n
}

// cpu is how long a process has computed.
func (s *site) cpu(pid int) time.Duration {
	s.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	s.must(err)
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	user, err := strconv.Atoi(fields[11])
	s.must(err)
	system, err := strconv.Atoi(fields[12])
	s.must(err)
	return time.Duration(user+system) * (time.Second / 100) // USER_HZ
}

var refusedLine = regexp.MustCompile(`(?m) vm=` + hostile + ` .*reason=\S+.*?(?: not_shown=([0-9]+))?$`)

// reported is how many lines about refused requests the daemon has written, and how many refusals these stand for.
func (s *site) reported() (lines, refused int) {
	for _, m := range refusedLine.FindAllStringSubmatch(s.daemon.log.String(), -1) {
		n := 0 // not said when all were shown
		if m[1] != "" {
			var err error
			n, err = strconv.Atoi(m[1])
			s.must(err)
		}
		lines, refused = lines+1, refused+1+n
	}
	return lines, refused
}

func TestHostileAppVM(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules(hostile+".10.137.1.11", bank)
	s.rules("good.10.137.1.12", bank)
	s.attach(hostile, "10.137.1.11")
	s.attach("good", "10.137.1.12")
	s.start()
	s.opens(hostile, "http://bank.example/")
	s.opens("good", "http://bank.example/")
	daemon, vms := s.daemon.cmd.Process.Pid, s.show()
	usual := s.latency("good")
	memory := s.status(daemon, "VmRSS")

	// Thousands of connections: silent ones, ones with slow headers, ones with endless headers.
	var mu sync.Mutex
	var open []net.Conn
	stop := make(chan struct{})
	var talkers sync.WaitGroup
	s.inHostile(16, func(dial func() (net.Conn, error)) error {
		for i, vain := 0, 0; i < 125 && vain < 3; i++ { // then tinyproxy's backlog is full
			conn, err := dial()
			if err != nil {
				vain++
				continue
			}
			vain = 0
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			piece := []string{"", "X-Slow: 1\r\n", "X-Endless: " + strings.Repeat("x", 8000) + "\r\n"}[i%3]
			if piece == "" || i > 12 {
				continue
			}
			talkers.Go(func() {
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				_, err := io.WriteString(conn, "GET http://bank.example/ HTTP/1.1\r\n")
				for err == nil {
					select {
					case <-stop:
						return
					case <-tick.C:
						_, err = io.WriteString(conn, piece)
					}
				}
			})
		}
		return nil
	})
	begin, busy := time.Now(), s.cpu(vms[hostile].PID)
	during := s.latency("good")
	wall := time.Since(begin)
	s.Logf("%d connections: good's median request took %v instead of %v (%.1f times); evil's proxy used %.0f %% of a CPU",
		len(open), during.Round(time.Microsecond), usual.Round(time.Microsecond), float64(during)/float64(usual),
		100*float64(s.cpu(vms[hostile].PID)-busy)/float64(wall))
	if len(open) < 200 {
		s.Errorf("only %d connections: MaxClients was not reached", len(open))
	}
	close(stop)
	for _, conn := range open {
		conn.Close()
	}
	talkers.Wait()
	s.opens(hostile, "http://bank.example/") // it has hurt itself only, and not for good

	// Refused requests, as fast as they go.
	begin = time.Now()
	const workers = 8
	sent := *refusals / workers * workers
	linesBefore, before := s.reported() // that it was full, for example
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		s.inHostile(workers, func(dial func() (net.Conn, error)) error {
			for i := range sent / workers {
				if err := refuse(dial, fmt.Sprintf("host%d-\x1b]0;%d\a", i, rand.Uint32())); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	during = s.latency("good")
	await.Value(s.T, "the end of the refused requests", refused)
	wall = time.Since(begin)
	lines, _ := s.reported()
	s.Logf("%d refused requests in %v: good's median request took %v (%.1f times); %d lines in the journal", sent,
		wall.Round(time.Millisecond), during.Round(time.Microsecond), float64(during)/float64(usual), lines)
	if most := 20 + int(wall/time.Second) + 1; lines-linesBefore > most {
		s.Errorf("%d lines about refused hosts in %v, want at most %d", lines, wall, most)
	}
	// Those that were not shown are told of with the next that is, of which there is one a second.
	last := time.Now()
	s.until("every refusal has been counted", func() error {
		_, n := s.reported()
		n -= before // and once more for each time that it is full now
		if n < sent && time.Since(last) > 2*time.Second {
			last = time.Now()
			s.inHostile(1, func(dial func() (net.Conn, error)) error { return refuse(dial, "last.example") })
			sent++
		}
		if n < sent {
			return fmt.Errorf("%d of %d", n, sent)
		}
		return nil
	})
	for _, name := range []string{"log", "log.1"} {
		if info, err := os.Stat(filepath.Join(s.runDir(), hostile, name)); err == nil && info.Size() > 1<<20 {
			s.Errorf("%s has %d bytes", name, info.Size())
		}
	}
	if strings.Contains(s.daemon.log.String(), "\x1b") {
		s.Error("an escape character in the journal")
	}

	// The race detector multiplies what the heap breathes.
	const most = 24 << 10 // KiB
	now := s.status(daemon, "VmRSS")
	s.Logf("the daemon's memory: %d KiB, before %d KiB", now, memory)
	if now-memory > most {
		s.Errorf("the daemon grew from %d to %d KiB", memory, now)
	}
	for name, before := range vms {
		if vm := s.show()[name]; vm.PID != before.PID || vm.State != control.Running {
			s.Errorf("%+v, before %+v", vm, before)
		}
	}
	s.stop()
}

// refuse sends a request for a host that is not permitted and reads the answer. A connection may not come about, as
// when the backlog is full.
func refuse(dial func() (net.Conn, error), host string) error {
	for began := time.Now(); ; {
		conn, err := dial()
		if err != nil {
			if time.Since(began) > patience {
				return fmt.Errorf("host %q: no connection within %v: %w", host, patience, err)
			}
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "GET http://%s/ HTTP/1.0\r\n\r\n", host)
		answer, err := bufio.NewReader(conn).ReadString('\n')
		conn.Close()
		if !strings.Contains(answer, " 403 ") {
			return fmt.Errorf("host %q: answer %q, %w", host, answer, err)
		}
		return nil
	}
}
