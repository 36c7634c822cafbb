package live

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"

	"vifproxy/control"
)

const (
	// lookInterval is the time between two looks. It is longer if answers take long: looks take a tenth of the time at most.
	lookInterval = time.Second

	// retryInterval is the same while nobody answers.
	retryInterval = 200 * time.Millisecond

	// lookTimeout is how long an answer may take before it is said that nobody answers.
	lookTimeout = 5 * time.Second
)

// Follow tells a model how things are, again and again, until ctx ends. It gives post what changes the model.
func Follow(ctx context.Context, daemon *control.Client, m *Model, post func(change func())) {
	var meter Meter
	var last time.Time
	for ctx.Err() == nil {
		began := time.Now()
		state, err := look(ctx, daemon, &meter)
		pause := max(lookInterval, 10*time.Since(began))
		if err == nil {
			last = time.Now()
			post(func() { m.Set(state) })
		} else {
			pause = retryInterval
			why := fmt.Sprintf("vifproxyd does not answer. This is how it was at %s.", last.Local().Format(time.TimeOnly))
			post(func() { m.Fail(why) })
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// look asks how things are.
func look(ctx context.Context, daemon *control.Client, meter *Meter) (s State, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	status, err := daemon.AppVMs(ctx)
	if err != nil {
		return s, err
	}
	s.VMs = status.VMs
	if s.Denied, err = daemon.Denied(ctx, nil, time.Time{}); err != nil {
		return s, err
	}
	links := map[string]Counters{}
	all, _ := netlink.LinkList() // without it, no traffic is shown
	for _, link := range all {
		if a := link.Attrs(); a.Statistics != nil {
			links[a.Name] = Counters{Down: a.Statistics.TxBytes, Up: a.Statistics.RxBytes}
		}
	}
	s.Traffic = meter.Rates(s.VMs, links, time.Now())
	return s, nil
}
