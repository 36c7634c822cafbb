package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/bench/caller"
	"vifproxy/internal/lab"
)

// echoLine permits tunnels to lab.Echo.
const echoLine = `^203\.0\.113\.7$`

// unchanging measures what a change of rules does to what is under way: requests of two clients that ask all the
// time, and a tunnel. Lines are added and taken away by turns; neither concerns the hosts that are asked for.
func (b *bench) unchanging() (outcome, error) {
	s, err := b.inhabited(1)
	if err != nil {
		return outcome{}, err
	}
	if err := errors.Join(s.save(0, openLine, echoLine), s.untilAtRest(b.ctx)); err != nil {
		return outcome{}, err
	}
	vm := s.Connections()[0]
	load := s.load(b.ctx, vm, 2)
	defer load.end()
	changes, requests := 10*b.Runs, 1500*b.Runs
	var cut, made [2]int // tunnels, by additions and by removals
	err = s.from(vm, func(c caller.Caller) error {
		for i := 0; i < changes || load.requests() < requests; i++ {
			tunnel, err := s.tunnel(c)
			if err != nil {
				return err
			}
			lines, host, wanted := []string{openLine, echoLine, `^203\.0\.113\.11$`}, "203.0.113.11", isServed
			if i%2 == 1 {
				lines, wanted = lines[:2], isRefused
			}
			if err := s.save(0, lines...); err != nil {
				return err
			}
			if _, err := c.Until(host, wanted); err != nil {
				return err
			}
			caller.Nap(quiet) // in which an older process may be ended
			if made[i%2]++; !echoes(tunnel) {
				cut[i%2]++
			}
			unix.Close(tunnel)
		}
		return nil
	})
	took := load.end()
	o := outcome{unit: "", figures: []float64{float64(took.failed + cut[0])}}
	o.note("%d changes, %d requests meanwhile: %d failed; %d of %d tunnels cut by an added line",
		made[0]+made[1], len(took.latencies)+took.failed, took.failed, cut[0], made[0])
	if took.failed > 0 {
		o.note("the first that failed: %v", took.why)
	}
	o.note("%d of %d tunnels cut by a removed line, within %v: not counted", cut[1], made[1], quiet)
	return o, errors.Join(err, took.err)
}

// revoke measures from the change that removes a host until a tunnel to it is dead.
func (b *bench) revoke() (outcome, error) {
	s, err := b.inhabited(1)
	if err != nil {
		return outcome{}, err
	}
	hand, err := b.byHand(s, aside, addr(240))
	if err != nil {
		return outcome{}, err
	}
	defer hand.close()
	vm := s.Connections()[0]
	return b.alternate("ms", hand.time, func() (took float64, err error) {
		if err := errors.Join(s.save(0, openLine, echoLine), s.untilAtRest(b.ctx)); err != nil {
			return 0, err
		}
		time.Sleep(quiet)
		err = s.from(vm, func(c caller.Caller) error {
			tunnel, err := s.tunnel(c)
			if err != nil {
				return err
			}
			defer unix.Close(tunnel)
			if !echoes(tunnel) {
				return errors.New("the tunnel carries nothing")
			}
			if err := s.save(0, openLine); err != nil {
				return err
			}
			saved := time.Now()
			err = caller.Await(tunnel, unix.POLLIN, patience) // it has been at rest: what comes is its end
			took = milliseconds(time.Since(saved))
			if n, _ := unix.Read(tunnel, make([]byte, 1)); err == nil && n > 0 {
				err = errors.New("the tunnel lives on")
			}
			return err
		})
		return took, err
	})
}

// tunnel opens one to the echo server.
func (s *site) tunnel(c caller.Caller) (fd int, err error) {
	if fd, err = c.Connect(); err != nil {
		return fd, err
	}
	target := netip.AddrPortFrom(lab.Echo, 443)
	if _, err = unix.Write(fd, fmt.Appendf(nil, "CONNECT %v HTTP/1.0\r\n\r\n", target)); err == nil {
		err = caller.Await(fd, unix.POLLIN, patience)
	}
	answer := make([]byte, 4096)
	n := 0
	if err == nil {
		n, err = unix.Read(fd, answer)
	}
	if err == nil && !strings.Contains(string(answer[:n]), " 200 ") {
		err = fmt.Errorf("answer %.40q", answer[:n])
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("tunnel to %v: %w", target, err)
	}
	return fd, nil
}

// echoes tells whether a tunnel is still open, both ways.
func echoes(fd int) bool {
	word := make([]byte, 5)
	_, err := unix.SendmsgN(fd, []byte("hello"), nil, nil, unix.MSG_NOSIGNAL)
	if err != nil || caller.Await(fd, unix.POLLIN, patience) != nil {
		return false
	}
	n, err := unix.Read(fd, word)
	return err == nil && string(word[:n]) == "hello"
}

// loaded is what came of a load.
type loaded struct {
	latencies []float64 // ms, of the requests that did not fail
	failed    int
	why       error // of the first that failed
	err       error // no load
}

// load asks for the open host from an AppVM, over and over, with so many clients.
type load struct {
	cancel  context.CancelFunc
	running sync.WaitGroup
	asked   atomic.Int64
	mu      sync.Mutex
	loaded
}

func (s *site) load(ctx context.Context, vm lab.VM, clients int) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel}
	for range clients {
		l.running.Go(func() {
			var own loaded
			own.err = s.from(vm, func(c caller.Caller) error {
				c.Patience = patience
				for ctx.Err() == nil {
					began := time.Now()
					status, err := c.Ask(open)
					if err == nil && !isServed(status) {
						err = fmt.Errorf("status %d", status)
					}
					l.asked.Add(1)
					if err != nil && own.failed == 0 {
						own.why = fmt.Errorf("%w, after %v", err, time.Since(began))
					}
					if err != nil {
						own.failed++
					} else {
						own.latencies = append(own.latencies, milliseconds(time.Since(began)))
					}
				}
				return nil
			})
			l.mu.Lock()
			defer l.mu.Unlock()
			l.latencies = append(l.latencies, own.latencies...)
			l.failed += own.failed
			if l.why == nil {
				l.why = own.why
			}
			l.err = errors.Join(l.err, own.err)
		})
	}
	return l
}

// requests is how many have been answered, or have failed.
func (l *load) requests() int { return int(l.asked.Load()) }

func (l *load) end() loaded {
	l.cancel()
	l.running.Wait()
	return l.loaded
}
