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
	busy, err := b.throughDaemon()
	if err != nil {
		return outcome{}, err
	}
	alone, crew, err := b.throughCrew()
	defer crew.close()
	if err != nil {
		return outcome{}, err
	}
	o, err := b.alternate("/s", func() (float64, error) { return alone.measure(b.ctx) }, func() (float64, error) { return busy.measure(b.ctx) })
	o.note("each second another AppVM comes, a third's rules change, and the other goes")
	if err == nil {
		o.note("CPU time for each request: %.0f µs of the proxy and %.0f of the daemon, which does the rest too; by hand %.0f",
			busy.cpuOfEach(0), busy.cpuOfEach(1), alone.cpuOfEach(0))
	}
	figure, floor := busy.latencies, alone.latencies
	ratio := func(q float64) float64 { return quantile(figure, q) / quantile(floor, q) }
	text := fmt.Sprintf("latency: median %.2f ms, %.2f×; p99 %.2f ms, %.2f×", quantile(figure, 0.5), ratio(0.5),
		quantile(figure, 0.99), ratio(0.99))
	if ratio(0.99) > 1.1 {
		o.wrong = append(o.wrong, text)
	} else {
		o.note("%s", text)
	}
	return o, err
}

// A passage is a proxy, the AppVM that asks through it, and what has come of that.
type passage struct {
	site   *site
	vm     lab.VM
	beside commotion
	pids   []int // who works for the requests: the proxy, and the daemon if there is one

	used      []time.Duration // CPU time, by these
	latencies []float64
}

// measure asks for a slice, and returns how many requests were answered each second.
func (p *passage) measure(ctx context.Context) (float64, error) {
	before, err := taken.CPUs(p.pids)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, slice)
	defer cancel()
	began := time.Now()
	l := p.site.load(ctx, p.vm, 2)
	err = p.beside.during(ctx)
	<-ctx.Done()
	load := l.end()
	after, err2 := taken.CPUs(p.pids)
	for i := range after {
		p.used[i] += after[i] - before[i]
	}
	p.latencies = append(p.latencies, load.latencies...)
	if load.failed > 0 {
		err = errors.Join(err, fmt.Errorf("%d requests failed: %w", load.failed, load.why))
	}
	return float64(len(load.latencies)) / time.Since(began).Seconds(), errors.Join(err, err2, load.err)
}

// cpuOfEach returns the CPU time of one of those that work, for each request, in µs.
func (p *passage) cpuOfEach(i int) float64 {
	return microseconds(p.used[i]) / float64(len(p.latencies))
}

// throughDaemon returns the passage through a proxy of the daemon, with AppVMs beside.
func (b *bench) throughDaemon() (*passage, error) {
	busy, err := b.inhabited(1)
	if err != nil {
		return nil, err
	}
	served := busy.Connections()[0]
	if err := errors.Join(busy.save(0, openLine), busy.save(1, openLine), busy.Attach(busy.vm(2)), busy.save(2, openLine),
		busy.untilRunning(b.ctx, 2)); err != nil {
		return nil, err
	}
	status, err := busy.control.Status(b.ctx)
	if err != nil {
		return nil, err
	}
	p := &passage{site: busy, vm: served, pids: []int{0, busy.daemon.Process.Pid}, used: make([]time.Duration, 2)}
	for _, vm := range status.VMs {
		if vm.IP == served.IP.String() {
			p.pids[0] = vm.PID
		}
	}
	edits := 0
	var comes lab.VM
	p.beside = commotion{
		func() error { comes = busy.vm(1); return busy.Attach(comes) },
		func() error { edits++; return busy.save(2, openLine, fmt.Sprintf("^edit%d$", edits)) },
		func() error { return busy.Detach(comes.Vif()) },
	}
	return p, nil
}

// throughCrew returns the passage through a proxy by hand, with others beside, and all of these, also after an error.
func (b *bench) throughCrew() (*passage, *crew, error) {
	c := &crew{}
	alone, err := b.alone()
	if err != nil {
		return nil, c, err
	}
	for i, listen := range []netip.AddrPort{netip.AddrPortFrom(lab.Gateway, lab.ProxyPort), aside,
		netip.AddrPortFrom(aside.Addr(), aside.Port()-1), netip.AddrPortFrom(aside.Addr(), aside.Port()-2)} {
		h, err := b.byHand(alone, listen, addr(i))
		if err != nil {
			return nil, c, err
		}
		c.all[i] = h
	}
	const asks, comes = 0, 1
	newer, older := 3, 2
	if err := errors.Join(c.start(asks), c.start(older)); err != nil {
		return nil, c, err
	}
	var visitor lab.VM
	return &passage{site: alone, vm: alone.Connections()[0], pids: []int{c.all[asks].pid}, used: make([]time.Duration, 1), beside: commotion{
		func() error { visitor = alone.vm(1); return errors.Join(alone.Attach(visitor), c.start(comes)) },
		func() error {
			err := c.start(newer)
			c.end(older)
			newer, older = older, newer
			return err
		},
		func() error { c.end(comes); return alone.Detach(visitor.Vif()) },
	}}, c, nil
}

// A crew is proxies by hand: for who asks, for who comes, and two by turns for whose rules change.
type crew struct {
	all  [4]*byHand
	ends [4]func() // of those that run
}

func (c *crew) start(i int) (err error) {
	_, c.ends[i], err = c.all[i].start()
	return err
}

func (c *crew) end(i int) {
	if c.ends[i] != nil {
		c.ends[i]()
	}
	c.ends[i] = nil
}

func (c *crew) close() {
	for i, h := range c.all {
		c.end(i)
		if h != nil {
			h.close()
		}
	}
}
