package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"vifproxy/internal/bench/taken"
	"vifproxy/internal/lab"
)

// slice is how long a measurement of throughput takes, and as often is the commotion.
const slice = time.Second

// commotion is what happens beside the requests in each slice: an AppVM comes, the rules of another change, and the first goes.
type commotion []func() error

// during does one step after the other, a quarter of a slice apart.
func (c commotion) during(ctx context.Context) error {
	for _, step := range c {
		if err := step(); err != nil {
			return err
		}
		select {
		case <-time.After(slice / 4):
		case <-ctx.Done():
		}
	}
	return nil
}

// throughput measures requests through a proxy of the daemon, while that is busy with other AppVMs. The floor is the same
// tinyproxy, started by hand, in a firewall VM where the same happens by hand.
func (b *bench) throughput() (outcome, error) {
	busy, err := b.inhabited(1)
	if err != nil {
		return outcome{}, err
	}
	served := busy.Connections()[0]
	if err := errors.Join(busy.save(0, openLine), busy.save(1, openLine), busy.Attach(busy.vm(2)), busy.save(2, openLine),
		busy.untilRunning(b.ctx, 2)); err != nil {
		return outcome{}, err
	}
	edits := 0
	var comes lab.VM
	bySaving := commotion{
		func() error { comes = busy.vm(1); return busy.Attach(comes) },
		func() error { edits++; return busy.save(2, openLine, fmt.Sprintf("^edit%d$", edits)) },
		func() error { return busy.Detach(comes.Vif()) },
	}

	alone, err := b.alone()
	if err != nil {
		return outcome{}, err
	}
	var all [4]*byHand // for who asks, who comes, and two by turns for whose rules change
	for i, listen := range []netip.AddrPort{netip.AddrPortFrom(lab.Gateway, lab.ProxyPort), aside,
		netip.AddrPortFrom(aside.Addr(), aside.Port()-1), netip.AddrPortFrom(aside.Addr(), aside.Port()-2)} {
		if all[i], err = b.byHand(alone, listen, addr(i)); err != nil {
			return outcome{}, err
		}
		defer all[i].close()
	}
	var ends [4]func()
	start := func(i int) (err error) {
		_, ends[i], err = all[i].start()
		return err
	}
	end := func(i int) {
		if ends[i] != nil {
			ends[i]()
		}
		ends[i] = nil
	}
	defer func() {
		for i := range ends {
			end(i)
		}
	}()
	if err := errors.Join(start(0), start(2)); err != nil {
		return outcome{}, err
	}
	var visitor lab.VM
	newer, older := 3, 2
	byHand := commotion{
		func() error { visitor = alone.vm(1); return errors.Join(alone.Attach(visitor), start(1)) },
		func() error {
			err := start(newer)
			end(older)
			newer, older = older, newer
			return err
		},
		func() error { end(1); return alone.Detach(visitor.Vif()) },
	}

	status, err := busy.control.Status(b.ctx)
	if err != nil {
		return outcome{}, err
	}
	pids := [2][]int{{all[0].pid}, {0, busy.daemon.Process.Pid}} // who works for the requests
	for _, vm := range status.VMs {
		if vm.IP == served.IP.String() {
			pids[1][0] = vm.PID
		}
	}
	var used [2][2]time.Duration // by these
	var latencies [2][]float64
	run := func(i int, s *site, vm lab.VM, beside commotion) func() (float64, error) {
		return func() (float64, error) {
			before, err := taken.CPUs(pids[i])
			if err != nil {
				return 0, err
			}
			ctx, cancel := context.WithTimeout(b.ctx, slice)
			defer cancel()
			began := time.Now()
			l := s.load(ctx, vm, 2)
			err = beside.during(ctx)
			<-ctx.Done()
			took := l.end()
			after, err2 := taken.CPUs(pids[i])
			for j := range after {
				used[i][j] += after[j] - before[j]
			}
			latencies[i] = append(latencies[i], took.latencies...)
			if took.failed > 0 {
				err = errors.Join(err, fmt.Errorf("%d requests failed: %w", took.failed, took.why))
			}
			return float64(len(took.latencies)) / time.Since(began).Seconds(), errors.Join(err, err2, took.err)
		}
	}
	o, err := b.alternate("/s", run(0, alone, alone.Connections()[0], byHand), run(1, busy, served, bySaving))
	ratio := func(q float64) float64 { return quantile(latencies[1], q) / quantile(latencies[0], q) }
	p50, p99 := ratio(0.5), ratio(0.99)
	o.note("each second another AppVM comes, a third's rules change, and the other goes")
	if err == nil {
		each := func(i, j int) float64 { return microseconds(used[i][j]) / float64(len(latencies[i])) }
		o.note("CPU time for each request: %.0f µs of the proxy and %.0f of the daemon, which does the rest too; by hand %.0f",
			each(1, 0), each(1, 1), each(0, 0))
	}
	text := fmt.Sprintf("latency: median %.2f ms, %.2f×; p99 %.2f ms, %.2f×", quantile(latencies[1], 0.5), p50,
		quantile(latencies[1], 0.99), p99)
	if p99 > 1.1 {
		o.wrong = append(o.wrong, text)
	} else {
		o.note("%s", text)
	}
	return o, err
}
