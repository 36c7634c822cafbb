package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/lab"
)

// unchanging measures what a change of rules does to what is under way: requests of two clients that ask all the
// time, and a tunnel. Lines are added and taken away by turns; neither concerns the hosts that are asked for.
func (b *bench) unchanging() (outcome, error) {
	s, err := b.inhabited(1)
	if err != nil {
		return outcome{}, err
	}
	const echo = `^203\.0\.113\.7$`
	if err := errors.Join(s.save(0, openLine, echo), s.untilAtRest(b.ctx)); err != nil {
		return outcome{}, err
	}
	vm := s.Connections()[0]
	load := s.load(b.ctx, vm, 2)
	defer load.end()
	changes := 10 * b.Runs
	var cut [2]int // tunnels, by additions and by removals
	err = s.from(vm, func(c caller) error {
		for i := range changes {
			tunnel, err := s.tunnel(c)
			if err != nil {
				return err
			}
			lines, host, wanted := []string{openLine, echo, `^203\.0\.113\.11$`}, "203.0.113.11", isServed
			if i%2 == 1 {
				lines, wanted = lines[:2], isRefused
			}
			if err := s.save(0, lines...); err != nil {
				return err
			}
			if _, err := c.until(host, wanted); err != nil {
				return err
			}
			nap(quiet) // in which an older process may be ended
			if !echoes(tunnel) {
				cut[i%2]++
			}
			unix.Close(tunnel)
		}
		return nil
	})
	took := load.end()
	o := outcome{unit: "", figures: []float64{float64(took.failed + cut[0])}}
	o.note("%d changes, %d requests meanwhile: %d failed; %d of %d tunnels cut by an added line",
		changes, len(took.latencies)+took.failed, took.failed, cut[0], (changes+1)/2)
	if took.failed > 0 {
		o.note("the first that failed: %v", took.why)
	}
	o.note("%d of %d tunnels cut by a removed line, within %v: not counted",
		cut[1], changes/2, quiet)
	return o, errors.Join(err, took.err)
}

// tunnel opens one to the echo server.
func (s *site) tunnel(c caller) (fd int, err error) {
	if fd, err = c.connect(); err != nil {
		return fd, err
	}
	target := netip.AddrPortFrom(lab.Echo, 443)
	if _, err = unix.Write(fd, fmt.Appendf(nil, "CONNECT %v HTTP/1.0\r\n\r\n", target)); err == nil {
		err = await(fd, unix.POLLIN, patience)
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
	if err != nil || await(fd, unix.POLLIN, patience) != nil {
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
	mu      sync.Mutex
	loaded
}

func (s *site) load(ctx context.Context, vm lab.VM, clients int) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel}
	for range clients {
		l.running.Go(func() {
			var own loaded
			own.err = s.from(vm, func(c caller) error {
				c.patience = patience
				for ctx.Err() == nil {
					began := time.Now()
					status, err := c.ask(open)
					if err == nil && !isServed(status) {
						err = fmt.Errorf("status %d", status)
					}
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

func (l *load) end() loaded {
	l.cancel()
	l.running.Wait()
	return l.loaded
}

// throughput measures requests through a proxy of the daemon, while that is busy with other AppVMs: one comes and
// goes and the rules of another change, all the time. The floor is the same tinyproxy, started by hand, in a
// firewall VM where nothing else happens.
func (b *bench) throughput() (outcome, error) {
	const slice = time.Second
	busy, err := b.inhabited(1)
	if err != nil {
		return outcome{}, err
	}
	served := busy.Connections()[0]
	if err := errors.Join(busy.save(0, openLine), busy.Attach(busy.vm(2)), busy.save(2, openLine),
		busy.untilRunning(b.ctx, 2)); err != nil {
		return outcome{}, err
	}
	alone, err := b.alone()
	if err != nil {
		return outcome{}, err
	}
	hand, err := b.byHand(alone, netip.AddrPortFrom(lab.Gateway, lab.ProxyPort), addr(0))
	if err != nil {
		return outcome{}, err
	}
	defer hand.close()
	_, end, err := hand.start()
	if err != nil {
		return outcome{}, err
	}
	defer end()

	var latencies [2][]float64
	run := func(i int, s *site, vm lab.VM, beside func(context.Context) error) func() (float64, error) {
		return func() (float64, error) {
			ctx, cancel := context.WithTimeout(b.ctx, slice)
			defer cancel()
			began := time.Now()
			l := s.load(ctx, vm, 2)
			err := beside(ctx)
			<-ctx.Done()
			took := l.end()
			latencies[i] = append(latencies[i], took.latencies...)
			if took.failed > 0 {
				err = errors.Join(err, fmt.Errorf("%d requests failed: %w", took.failed, took.why))
			}
			return float64(len(took.latencies)) / time.Since(began).Seconds(), errors.Join(err, took.err)
		}
	}
	edits := 0
	o, err := b.alternate("/s", run(0, alone, alone.Connections()[0], func(context.Context) error { return nil }),
		run(1, busy, served, func(ctx context.Context) error {
			vm := busy.vm(1)
			for _, step := range []func() error{
				func() error { return busy.Attach(vm) },
				func() error { edits++; return busy.save(2, openLine, fmt.Sprintf("^edit%d$", edits)) },
				func() error { return busy.Detach(vm.Vif()) },
			} {
				if err := step(); err != nil {
					return err
				}
				select {
				case <-time.After(slice / 4):
				case <-ctx.Done():
				}
			}
			return nil
		}))
	ratio := func(q float64) float64 { return quantile(latencies[1], q) / quantile(latencies[0], q) }
	p50, p99 := ratio(0.5), ratio(0.99)
	o.note("each second another AppVM comes, a third's rules change, and the other goes")
	text := fmt.Sprintf("latency: median %.2f ms, %.2f×; p99 %.2f ms, %.2f×", quantile(latencies[1], 0.5), p50,
		quantile(latencies[1], 0.99), p99)
	if p99 > 1.1 {
		o.wrong = append(o.wrong, text)
	} else {
		o.note("%s", text)
	}
	return o, err
}

// admit lets AppVMs connect to the proxy port itself and the next few, which nobody redirects where there is no daemon.
func (s *site) admit(ctx context.Context) error {
	ports := fmt.Sprintf("%d-%d", lab.ProxyPort, lab.ProxyPort+9)
	rule := []string{"add", "rule", "ip", "qubes", "custom-input", "tcp", "dport", ports, "accept"}
	if out, err := s.Command(ctx, "nft", rule...).CombinedOutput(); err != nil {
		return fmt.Errorf("nft %s: %w: %s", strings.Join(rule, " "), err, out)
	}
	return nil
}
