package supervisor

import (
	"net/netip"
	"slices"
	"time"

	"vifproxy/control"
	"vifproxy/internal/agenda"
	"vifproxy/internal/plan"
)

// report says how things stand: to systemd, and to verbs that wait.
func (l *loop) report(now time.Time, settled bool) {
	if line := l.summarize(now); line != l.summary {
		l.summary = line
		l.notifyStatus(line)
	}
	if !l.ready && (settled || !l.agenda.Has(agenda.Ready)) {
		l.ready = true
		l.agenda.At(agenda.Ready, time.Time{})
		l.notify("READY=1")
	}
	var done []func(control.Status)
	l.waiters = slices.DeleteFunc(l.waiters, func(w *waiter) bool {
		if l.waitsForRules(w, now) {
			return false
		}
		if w.last == 0 {
			w.last = l.lastID + 1 // what its request has started is there by now
		}
		if l.pendingFor(w) {
			return false
		}
		done = append(done, func(status control.Status) {
			status.Cut = w.cut
			w.reply(status, nil)
		})
		return true
	})
	l.answerSoon(done...)
}

// A waiter is a verb that waits for what it has started, and for nothing that begins later: proxies of other AppVMs may start and fail
// forever.
type waiter struct {
	reply func(control.Status, error)
	of    []netip.Addr // nil: all
	cut   int          // connections of these that have ended since
	last  int          // generations from this one on are not waited for; 0 until it is known
	files bool         // files that may be incomplete are waited for, for filesTimeout
	since time.Time
}

// filesTimeout is how long a verb waits for rules that have to be read again: somebody may write without end.
const filesTimeout = 3 * time.Second

// waitsForRules reports whether a waiter waits for rules that are read again in a moment.
func (l *loop) waitsForRules(w *waiter, now time.Time) bool {
	if w.since.IsZero() {
		w.since = now
	}
	incomplete := w.files && w.last == 0 && l.inputs.Rules.Again > 0
	return now.Sub(w.since) < filesTimeout && (incomplete || slices.ContainsFunc(l.want, func(d *plan.Desired) bool {
		return d.Waits && w.isFor(d.Addr)
	}))
}

// isFor reports whether a waiter waits for an AppVM.
func (w *waiter) isFor(addr netip.Addr) bool { return w.of == nil || slices.Contains(w.of, addr) }

// pendingFor reports whether a process that a waiter waits for is starting or ending.
func (l *loop) pendingFor(w *waiter) bool {
	for _, vm := range l.vms {
		if !w.isFor(vm.addr) {
			continue
		}
		if vm.beingPublished() || slices.ContainsFunc(vm.processes, func(p *process) bool {
			return p.ID < w.last && !p.rests() || vm.returnsToLastGood(p)
		}) {
			return true
		}
	}
	return false
}

// returnsToLastGood reports whether a process is starting with the last good policy because tinyproxy has refused the one that should
// serve. The verb that has made the loop try the refused policy again waits for that.
func (vm *appVM) returnsToLastGood(p *process) bool {
	return vm.failures.AnyBad() && !p.Ready && !p.Dying && vm.good.Is(p.Policy)
}
