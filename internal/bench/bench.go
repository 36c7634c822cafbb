// Package bench measures the real vifproxyd, with real tinyproxies, in the lab.
//
// A figure alone says little: it depends on the machine, and on what else that does. So each stands beside its
// floor, what it would take to do nothing but the unavoidable, and both are measured by turns in the same run:
// floor, figure, floor, figure. What disturbs one disturbs the other. Both are medians, and what counts is
// their ratio. Where people could have another proxy instead, it is a peer of the figure, measured by turns too.
//
// Nothing here fails because of a time. What can be counted is asserted by the tests of the packages.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options of a run.
type Options struct {
	Daemon  string   // path of vifproxyd; vifproxy-confine lies beside it
	Empty   string   // path of package empty's program
	Runs    int      // of each figure; the median is taken
	Only    []string // names of figures; none means all
	JSON    string   // file for the results; "" for none
	Profile string   // directory for profiles of the daemon, which must have been built with -tags profile; "" for none
}

// figure is one line of the table.
type figure struct {
	name  string // for --only
	what  string // is measured
	floor string // what beside
	goal  goal
	take  func(b *bench) (outcome, error)
}

// figures, in the order of the table. What they need (see site) is made when the first of them needs it.
var figures = []figure{
	{"attach", "last netlink event of an attach → proxy answers",
		"start the same confined tinyproxy by hand → listening", goal{text: "≤ 1.3×", times: 1.3}, (*bench).attach},
	{"rules", "rule file saved → new rule answers", "the same",
		goal{text: "≤ 2× + 10 ms", times: 2, plus: 10}, (*bench).rules},
	{"unchanging", "requests failed, tunnels cut by changes of rules that do not concern them", "0", goal{text: "0"},
		(*bench).unchanging},
	{"revoke", "rule file saved without a host → a tunnel to that host is dead",
		"start the same confined tinyproxy by hand → listening", goal{text: "≤ 40 ms", plus: 40}, (*bench).revoke},
	{"cold", "cold start with 200 connected AppVMs → all answer", "200 × start by hand ÷ CPUs",
		goal{text: "≤ 1.3×", times: 1.3}, (*bench).coldStart},
	{"attach-250", "attach one AppVM while 250 run", "attach one while 1 runs",
		goal{text: "≤ 1.1×", times: 1.1}, (*bench).attachAmong},
	{"connect", "new connection to the gateway's port → accepted, 250 AppVMs",
		"the same to a tinyproxy by hand, without vifproxyd", goal{text: "≤ 1.05×", times: 1.05}, (*bench).connect},
	{"reconcile", "reconcile with nothing to do, 250 AppVMs", "have the kernel list the same state, read the directory",
		goal{text: "≤ 2×", times: 2}, (*bench).reconcile},
	{"idle", "CPU of the daemon, 250 AppVMs idle for 60 s", "0",
		goal{text: "≤ 5 ms, every 30 s", plus: 5}, (*bench).idle},
	{"memory", "resident memory of the daemon, 250 AppVMs idle", "an empty Go daemon",
		goal{text: "≤ +6 MiB", times: 1, plus: 6}, (*bench).memory},
	{"write", "firewall write for one VM among 250", "one netlink round trip that writes the same",
		goal{text: "≤ 3×", times: 3}, (*bench).write},
	{"move", "one binding among 250 moved to another port", "one netlink transaction that moves the same",
		goal{text: "≤ 0.1×", times: 0.1}, (*bench).move},
	{"storm", "1000 AppVMs came in 10 s, 950 went → processes and bindings fit", "0",
		goal{text: "≤ 1 s, nothing left", plus: 1000}, (*bench).storm},
	{"https", "new tunnel, TLS, HTTP/1.1, a page of 20 kB from a server in Go", byHandName,
		goal{text: "≤ 0.06×", times: 0.06, peers: map[string]goal{squidName: {text: "≤ 1.05×", times: 1.05}}}, (*bench).https},
	{"https-h2", "the same with HTTP/2", byHandName,
		goal{text: "≤ 1.02×", times: 1.02, peers: map[string]goal{squidName: {text: "≤ 1×", times: 1}}}, (*bench).httpsH2},
	{"download", "200 MiB over HTTPS in a tunnel", byHandName,
		goal{text: "≥ 2.2×", times: 2.2, atLeast: true}, (*bench).download},
	{"page", "60 objects from 8 hosts over HTTPS in a new Chromium", noProxy,
		goal{text: "≤ 1.15×", times: 1.15, peers: map[string]goal{squidName: {text: "≤ 1×", times: 1}}}, (*bench).page},
	{"lookup", "first question of a proxy for a name", "the same question to the same name server",
		goal{text: "≤ 1.3× + 1 ms", times: 1.3, plus: 1}, (*bench).lookup},
	{"again", "second request to a host, with a name server 20 ms away", byHandName, goal{text: "≤ 0.2×", times: 0.2}, (*bench).again},
	{"faults", "page of a new host while a name server or IPv6 fails, the worst of four", "page of a new host while nothing fails",
		goal{text: "≤ 1.2×", times: 1.2}, (*bench).faults},
	{"resolver", "resident memory of the resolver, 250 AppVMs with 50 names each", "the same with 1 AppVM",
		goal{text: "≤ +16 MiB", times: 1, plus: 16}, (*bench).resolver},
	{"lists", "two lists of 1000 lines compared", "their automata made", goal{text: "≤ 3×", times: 3}, (*bench).lists},
	{"throughput", "requests through the proxy, the daemon busy",
		"the same confined tinyproxy by hand, beside as many starts and ends by hand",
		goal{text: "≥ 0.98×, p99 ≤ 1.1×", times: 0.98, atLeast: true}, (*bench).throughput},
}

// Names are the figures that Options.Only can name.
func Names() (names []string) {
	for _, f := range figures {
		names = append(names, f.name)
	}
	return names
}

// goal is what a figure should be, given its floor.
type goal struct {
	text        string
	times, plus float64 // at most floor × times + plus
	atLeast     bool    // at least, that is
	peers       map[string]goal
}

func (g goal) met(value, floor float64) bool {
	if g.atLeast {
		return value >= floor*g.times+g.plus
	}
	return value <= floor*g.times+g.plus
}

// outcome is what came of a figure.
type outcome struct {
	unit    string
	figures []float64 // one for each run; empty if it could not be measured
	floors  []float64 // the same; empty where the floor is nothing
	peers   []beside
	wrong   []string // what is missed besides the goal's number
	notes   []string
}

// beside is a peer's values, one for each run; none if it is not there.
type beside struct {
	name   string
	values []float64
}

func (o *outcome) note(format string, args ...any) {
	o.notes = append(o.notes, fmt.Sprintf(format, args...))
}

// bench is a run.
type bench struct {
	Options
	ctx   context.Context
	log   *slog.Logger
	sites map[string]*site
	begun time.Time
}

// Run measures and prints a table. An error says that something could not be measured, not that it was slow.
func Run(ctx context.Context, out io.Writer, o Options) (err error) {
	chosen, err := choose(o.Only)
	if err != nil {
		return err
	}
	for _, path := range []*string{&o.Daemon, &o.Empty} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
		if _, err := os.Stat(*path); err != nil {
			return fmt.Errorf("%w: 'make bench' builds it", err)
		}
	}
	if o.Profile != "" {
		if err := os.MkdirAll(o.Profile, 0o755); err != nil {
			return err
		}
	}
	b := &bench{Options: o, ctx: ctx, log: slog.New(slog.DiscardHandler), sites: map[string]*site{}, begun: time.Now()}
	defer func() { err = errors.Join(err, b.close()) }()
	report := newReport(b.begun, o.Runs)
	fmt.Fprint(out, report.heading())
	for _, f := range chosen {
		result, err := b.take(f)
		if err != nil {
			return fmt.Errorf("measure %s: %w", f.name, err)
		}
		fmt.Fprint(out, report.add(f, result))
	}
	fmt.Fprint(out, report.footing())
	if o.JSON == "" {
		return nil
	}
	return report.write(o.JSON)
}

// close takes all sites away.
func (b *bench) close() (err error) {
	for name, s := range b.sites {
		delete(b.sites, name)
		err = errors.Join(err, s.close())
	}
	return err
}

// take measures a figure, and profiles the daemons meanwhile if that is asked for.
func (b *bench) take(f figure) (o outcome, err error) {
	for _, s := range b.sites {
		if err := s.section(b, ""); err != nil {
			return o, err
		}
	}
	if o, err = f.take(b); err != nil {
		return o, err
	}
	for name, s := range b.sites {
		if err := s.section(b, f.name+"-at-"+name); err != nil {
			return o, err
		}
	}
	return o, nil
}

func choose(names []string) ([]figure, error) {
	if len(names) == 0 {
		return figures, nil
	}
	var chosen []figure
	for _, name := range names {
		i := slices.IndexFunc(figures, func(f figure) bool { return f.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no figure %q: there are %s", name, strings.Join(Names(), ", "))
		}
		chosen = append(chosen, figures[i])
	}
	return chosen, nil
}

// alternate measures floor and figure by turns. The first turn, in which caches are cold, does not count.
func (b *bench) alternate(unit string, floor, figure func() (float64, error)) (o outcome, err error) {
	return b.byTurns(unit, b.Runs, floor, figure)
}

// A peer is something that is measured beside a figure.
type peer struct {
	name    string
	measure func() (float64, error)
}

// byTurns measures floor, peers and figure, as often as runs says. The first turn, in which caches are cold, does not count.
func (b *bench) byTurns(unit string, runs int, floor, figure func() (float64, error), peers ...peer) (o outcome, err error) {
	o.unit = unit
	for _, p := range peers {
		o.peers = append(o.peers, beside{name: p.name})
	}
	for turn := range runs + 1 {
		f, err := floor()
		if err != nil {
			return o, fmt.Errorf("floor: %w", err)
		}
		var besides []float64
		for _, p := range peers {
			v, err := p.measure()
			if err != nil {
				return o, fmt.Errorf("%s: %w", p.name, err)
			}
			besides = append(besides, v)
		}
		v, err := figure()
		if err != nil {
			return o, err
		}
		if turn > 0 {
			o.floors, o.figures = append(o.floors, f), append(o.figures, v)
			for i, v := range besides {
				o.peers[i].values = append(o.peers[i].values, v)
			}
		}
		if err := b.ctx.Err(); err != nil {
			return o, err
		}
	}
	return o, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func median(all []float64) float64 { return quantile(all, 0.5) }

// quantile is 0 for nothing.
func quantile(all []float64, q float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
