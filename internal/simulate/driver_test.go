package simulate_test

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"testing"
	"testing/synctest"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/events"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/simulate/model"
	"vifproxy/names/wire"
	"vifproxy/netwatch"
	"vifproxy/supervisor"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/process"
)

// A due is something that the driver does at a time.
type due struct {
	at   time.Time
	n    int // of two at one instant the one that was asked for first comes first
	what string
	do   func()
}

type queue []due

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].n < q[j].n
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(due)) }
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

// at has something done after some time. The time gets a part of a microsecond that nothing else is likely to have.
func (m *machine) at(after time.Duration, what string, do func()) {
	m.serial++
	after += time.Duration(m.serial*7919%1009) + 1
	heap.Push(&m.queue, due{time.Now().Add(after), m.serial, what, do})
}

// A result is what came of a run.
type result struct {
	wrong   error
	steps   int
	reached map[string]int
	journal []string
	told    bytes.Buffer // what the model was told, with the journal
}

// run runs a script on a machine of its own, and returns when the daemon has ended. Its clock moves only when all goroutines wait.
func run(t *testing.T, is setting, s script, journal bool) (r result) {
	is.ports, is.slow = cmp.Or(is.ports, usualPorts), cmp.Or(is.slow, 1)
	synctest.Test(t, func(*testing.T) {
		m := &machine{setting: is, ceiling: window[hosts]{now: noCeiling}, before: map[*list]hosts{}, began: time.Now(), signal: make(chan struct{}, 1), asked: map[what]int{}, vms: newVMs(), writing: journal,
			procs: map[uint16]*proc{}, starting: map[uint16]bool{}, served: map[uint16]netip.Addr{}, shown: map[netip.Addr]uint16{}, current: map[netip.Addr]uint16{}, died: map[uint16]time.Time{}, knownDead: map[uint16]bool{}, quiet: true, verbs: map[*answer]bool{}, reached: map[string]int{}, kernel: &firewall.State{}}
		m.mu.Lock()
		for _, vm := range m.vms {
			vm.shared = &m.shared
		}
		if is.ceiling {
			m.ceiling.now = everyLine
		}
		if journal {
			m.tells = model.Write(&r.told)
		}
		m.expected = m.newExpected()
		m.judge()
		m.newLife()
		m.mu.Unlock()
		synctest.Wait()
		for _, step := range s {
			if !m.goesOn() {
				break
			}
			m.pass(step.after, step.what.String(), func() { m.perform(step) })
			if step.what == rest {
				m.rest(step.n%2 == 0)
			}
		}
		m.rest(is.seed%2 == 0)
		m.finish()
		r.wrong, r.steps, r.reached, r.journal = m.wrong, m.steps, m.reached, m.journal
	})
	return r
}

// pass has time pass, with all that happens in it, and then something done.
func (m *machine) pass(d time.Duration, what string, do func()) {
	over := false
	m.mu.Lock()
	m.at(d, what, func() {
		over = true
		m.did("— %s", what)
		do()
	})
	m.mu.Unlock()
	for m.goesOn() && !over {
		m.next()
	}
}

// goesOn reports whether nothing has been violated.
func (m *machine) goesOn() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wrong == nil
}

// next does what is due next.
func (m *machine) next() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		began, calm := time.Now(), m.isCalm()
		wait := m.queue[0].at.Sub(began)
		if wait <= 0 {
			break
		}
		timer := time.NewTimer(wait)
		m.mu.Unlock()
		select {
		case <-timer.C:
		case <-m.signal:
			timer.Stop()
		}
		synctest.Wait()
		m.mu.Lock()
		if calm {
			m.calm += time.Since(began)
			m.wait(time.Since(began))
		}
		m.linger(time.Since(began))
		m.admit()
	}
	d := heap.Pop(&m.queue).(due)
	d.do()
	m.expire()
	m.judge()
	m.mu.Unlock()
	synctest.Wait()
	m.mu.Lock()
	m.admit()
	m.steps++
	m.check()
}

// hindrances keep the daemon from taking away what was taken away. All others do not: a process that does not start, or a file that
// cannot be written, leaves nobody what a list has taken away.
var hindrances = []trouble{links, ruleFiles, chains, qubesDB, firewallFails, firewallMoody, firewallUnfenced, firewallShut, firewallSlow, startSlow, deaf, unseen, endSlow}

// retryMax is how long the daemon waits, at most, until it tries again to write what could not be written.
const retryMax = 6 * time.Second

// isCalm reports whether nothing keeps the daemon from doing what inputs say.
func (m *machine) isCalm() bool {
	if m.life == nil || !m.life.told.IsZero() || !m.life.wrote || !m.fenced || m.stale != [3]bool{} || time.Now().Before(m.tearing) && !m.forever {
		return false
	}
	if slices.ContainsFunc(hindrances, m.fails) {
		return false
	}
	return !m.isSlow() && (!m.fwFailed || time.Since(m.failed) > retryMax)
}

// isSlow reports whether an effect is under way that takes long.
func (m *machine) isSlow() bool {
	return slices.ContainsFunc(m.queue, func(d due) bool { return d.what == "slow" })
}

// admit takes in what was begun at this instant, in an order that does not depend on goroutines, and writes the journal.
func (m *machine) admit() {
	slices.SortStableFunc(m.fresh, (*effect).order)
	for _, e := range m.fresh {
		if e.over {
			continue
		}
		u := float64(m.chance(e.what, 1<<20)) / (1 << 20)
		took := e.least + time.Duration(u*u*u*float64(e.most-e.least))
		if m.forever {
			took = min(took, 5*time.Millisecond)
		}
		name := e.kind
		if took > 200*time.Millisecond {
			name = "slow"
		}
		m.at(took, name, func() {
			if e.over {
				return
			}
			e.over = true
			if e.life.dead {
				e.err = errDead
			} else {
				e.apply(e)
			}
			close(e.done)
		})
	}
	m.fresh = m.fresh[:0]
	slices.SortFunc(m.came, func(a, b *answer) int { return a.n - b.n })
	for _, a := range m.came {
		delete(m.verbs, a)
		if !a.life.dead {
			a.took()
		}
	}
	m.came = m.came[:0]
	if l := m.life; l != nil && l.over {
		m.ended(l)
	}
	if m.writing && len(m.instant) > 0 {
		sort.Strings(m.instant)
		for _, line := range m.instant {
			m.journal = append(m.journal, fmt.Sprintf("%12.6f %s", time.Since(m.began).Seconds(), line))
		}
		m.instant = m.instant[:0]
	}
}

// ended takes in that the daemon has ended by itself, or as it was told.
func (m *machine) ended(l *life) {
	m.life, l.dead = nil, true
	l.cancel() // the program ends
	m.did("daemon %d has ended", l.n)
	gaveUp := errors.Is(l.err, process.ErrRemoved)
	if gaveUp {
		m.sometimes("the daemon ends by itself")
	}
	if l.told.IsZero() && (!gaveUp || !l.mayEnd) {
		m.violated("the daemon has ended: %v", l.err)
	}
	if len(m.procs) > 0 || len(m.kernel.Bindings) > 0 {
		m.violated("the daemon has ended, and %d processes and %d bindings are left", len(m.procs), len(m.kernel.Bindings))
	}
	if !l.told.IsZero() && time.Since(l.told) > 10*time.Second {
		m.violated("the daemon ended after %v", time.Since(l.told))
	}
	m.at(10*time.Millisecond+time.Duration(m.chance(what{kind: "start"}, int64(2*time.Second))), "start", m.newLife)
}

// rest mends everything, and looks whether all is as the inputs say: when a verb says that it is, or when it has had its time.
func (m *machine) rest(verb bool) {
	m.mu.Lock()
	m.faults, m.forever = [troubles]time.Time{}, true
	if now := time.Now(); m.tearing.After(now) {
		m.tearing = now
	}
	for _, p := range m.procs {
		p.full = false
	}
	m.mu.Unlock()
	m.pass(75*time.Second, "mended", func() { // two resyncs, and the longest wait for another try
		for a := range m.verbs {
			m.violated("%s has not returned", a.name)
		}
		for _, vm := range m.vms {
			if vm.stopped == maybe && vm.list().kind != none {
				m.at(time.Microsecond, "start", func() { m.stopOrStart(vm, start) })
			}
		}
	})
	m.pass(3*time.Second, "started", func() {
		if verb {
			m.did("update")
			m.verb("update", func(sup *supervisor.Supervisor) error { _, err := sup.Update(context.Background()); return err }, nil)
		}
	})
	m.pass(3*time.Second, "at rest", func() {
		if m.life == nil || len(m.verbs) > 0 {
			m.violated("at rest: %d verbs have not returned, and the daemon is %v", len(m.verbs), m.life)
			return
		}
		m.atRest()
		for _, vm := range m.vms {
			vm.doubted = false
		}
		m.forever, m.quiet, m.lasted = false, true, [troubles]time.Duration{}
	})
}

// finish ends the daemon for good, with no check.
func (m *machine) finish() {
	m.mu.Lock()
	m.forever, m.finished, m.life = true, true, nil
	for _, l := range m.lives {
		l.cancel()
		l.dead = true
	}
	for _, p := range m.procs {
		m.end(p, "end", errEnded)
	}
	for range 10 {
		all := m.queue
		m.queue = nil
		for _, e := range m.fresh {
			e.over, e.err = true, errDead
			close(e.done)
		}
		m.fresh = nil
		for _, d := range all {
			d.do()
		}
		m.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		m.mu.Lock()
		if !slices.ContainsFunc(m.lives, func(l *life) bool { return !l.over }) && len(m.fresh) == 0 {
			m.mu.Unlock()
			return
		}
	}
	panic(fmt.Sprintf("seed %d: the daemon does not end: %v", m.seed, m.wrong))
}

var netwatch0 = netwatch.Hint{}

// event says that an input has changed: the daemon hears of it a little later, or not at all.
func (m *machine) event(i int, h netwatch.Hint) {
	l := m.life
	if l == nil {
		return
	}
	if m.fails(deaf) || m.fails(unseen) {
		m.stale[i] = true
		m.sometimes("an event is lost")
		return
	}
	after := time.Duration(m.chance(what{kind: "event"}, 1000)) * time.Nanosecond
	if m.chance(what{kind: "late event"}, 4) == 0 {
		after = time.Duration(m.chance(what{kind: "event"}, int64(30*time.Millisecond)))
	}
	m.at(after, "event", func() {
		switch {
		case l.dead || l != m.life:
		case h != netwatch0:
			l.sup.Hint(h)
		default:
			l.sup.Wake(watched[i].reason)
		}
	})
}

// changed notes a change of lists or template.
func (m *machine) changed() {
	m.version++
	m.event(1, netwatch0)
}

// verb has somebody ask the daemon for something.
func (m *machine) verb(name string, call func(*supervisor.Supervisor) error, took func(*answer, error), decides ...*appVM) {
	l := m.life
	if l == nil || l.dead || !l.told.IsZero() {
		return
	}
	m.serial++
	a := &answer{name: name, n: m.serial, life: l, decides: decides}
	m.verbs[a] = true
	for _, vm := range decides {
		vm.decider = a.n
		vm.stopped = maybe
	}
	go func() {
		err := call(l.sup)
		m.mu.Lock()
		defer m.mu.Unlock()
		a.took = func() {
			m.did("%s: %v", name, err)
			if took != nil {
				took(a, err)
			}
		}
		m.came = append(m.came, a)
		m.poke()
	}()
}

// expire takes back what was allowed for a time.
func (m *machine) expire() {
	boot := time.Since(m.began) + m.slept
	for _, vm := range m.vms {
		for i, t := range vm.temp {
			if t.until <= boot {
				delete(vm.temp, i)
			}
		}
	}
}

// pick returns one of the processes of an AppVM; nil if there is none.
func (m *machine) pick(vm *appVM, n int) *proc {
	var all []*proc
	for port := range m.ports {
		if p := m.procs[firstPort+port]; p != nil && p.vm == vm {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[n%len(all)]
}

// perform does one step of a script. The caller holds mu.
func (m *machine) perform(s step) {
	vm := m.vms[s.vm]
	bg := context.Background()
	if slices.Contains(disturbing, s.what) || s.what == fault && (trouble(s.n%int(troubles)) != startTaken || m.ports < manyPorts) {
		m.quiet = false
	}
	m.did("%v %s %d", vm.addr, s.what, s.n)
	switch s.what {
	case connect:
		if len(vm.vifs) < 2 {
			m.attach(vm)
		}
	case disconnect, reconnect:
		if len(vm.vifs) == 0 {
			return
		}
		for _, v := range vm.vifs {
			m.event(0, netwatch.Hint{Link: linkOf(v), Host: vm.addr})
		}
		vm.vifs = nil
		vm.connection++
		vm.steady = false
		vm.endLessons()
		m.judge()
		if vm.inRange {
			vm.doubtTemporary()
		}
		if s.what == reconnect {
			m.attach(vm)
			m.sometimes("an AppVM is back before it has gone")
		}
	case moveGateway:
		for _, vm := range m.vms {
			vm.gateway = gateways[s.n%2]
		}
		m.event(0, netwatch0)
	case write:
		m.write(&vm.file, s)
	case remove:
		vm.file = list{}
		vm.doubtTemporary()
		m.changed()
	case rename:
		if !vm.inRange {
			vm.name = fmt.Sprintf("vm%d%c", s.vm, 'a'+s.n%3)
			if vm.decider = 0; vm.stopped == no || vm.doubted {
				vm.stopped = maybe // after kill-all, only the AppVM of the old name was started; of another name, only that may have been stopped
			}
			vm.doubtTemporary()
			m.changed()
		}
	case dom0List:
		if m.fails(qubesDB) {
			return // nobody hears of it
		}
		if s.n%3 == 0 {
			vm.dom0 = list{}
			m.changed()
		} else if !vm.inRange {
			m.write(&vm.dom0, s)
		}
		vm.doubtTemporary()
	case shareList:
		if s.n>>8%16 == 5 {
			m.shared = list{}
			m.changed()
		} else {
			m.write(&m.shared, s)
		}
	case ceil:
		if m.ceiling.now == noCeiling {
			return // an option of the daemon says whether there is one
		}
		m.noCeiling = s.n>>8&7 == 0 // the last one holds on
		switch c := (hosts(s.n) & everyLine).whole(); s.n >> 11 & 3 {
		case 0:
			m.ceiling.set(c, m.calm)
		case 1:
			m.ceiling.set(everyLine, m.calm)
		default:
			m.ceiling.set((m.ceiling.now ^ 1<<(s.n%8)).whole(), m.calm)
		}
		m.changed()
	case template:
		before := m.tmpl
		if m.tmpl = []int{0, 0, 1, 2, brokenTemplate, 4}[s.n%6]; m.tmpl != before && m.tmpl != brokenTemplate {
			for _, vm := range m.vms {
				m.forgetUp(vm) // rules under the template before are taken up again only if those under this one have run
			}
		}
		m.changed()
	case stop, start, restart:
		m.stopOrStart(vm, s.what)
	case killAll, killAllAndRestart:
		is := yes
		if s.what == killAllAndRestart {
			is = no
		}
		m.verb(s.what.String(), func(sup *supervisor.Supervisor) error {
			_, err := sup.KillAll(bg, s.what == killAllAndRestart)
			return err
		}, func(a *answer, err error) { m.decided(a, err, is) }, m.vms...)
	case update:
		m.verb("update", func(sup *supervisor.Supervisor) error { _, err := sup.Update(bg); return err }, nil)
	case status:
		m.verb("status", func(sup *supervisor.Supervisor) (err error) {
			switch s.n % 4 {
			case 0:
				_, err = sup.AppVMs(bg)
			case 1:
				_, err = sup.Denied(bg, nil, time.Time{})
			default:
				_, err = sup.Status(bg)
			}
			return err
		}, nil)
	case reload:
		m.verb("reload", func(sup *supervisor.Supervisor) error { return sup.Reload(bg) }, nil)
	case allow, takeBack:
		m.allow(vm, s)
	case learn:
		m.learn(vm, s)
	case explainIt:
		name, host := vm.name, universe[s.n%4]
		m.verb("explain", func(sup *supervisor.Supervisor) error {
			ctx, cancel := context.WithTimeout(bg, 3*time.Second)
			defer cancel()
			_, err := sup.Explain(ctx, name, "http://"+host+"/")
			return err
		}, nil)
	case die:
		if p := m.pick(vm, s.n); p != nil && m.life != nil {
			m.end(p, "die", errEnded)
		}
	case lose:
		if p := m.pick(vm, s.n); p != nil {
			p.lost, p.unheard = true, m.fails(deaf) || m.fails(unseen)
			m.event(2, netwatch0)
		}
	case fill:
		if p := m.pick(vm, s.n); p != nil {
			p.full = !p.full
			p.clients = 5
		}
	case clients:
		for _, p := range m.procs {
			p.clients = int(uint(s.n)>>(p.port%12)) % 3
		}
	case flush:
		m.unfence()
		m.event(2, netwatch0)
	case unbind:
		k := *m.kernel
		k.Bindings = nil
		m.kernel = &k
		m.event(2, netwatch0)
	case tear:
		m.tearing = time.Now().Add(s.lasts)
		m.unfence()
		m.event(2, netwatch0)
	case fault:
		m.break_(trouble(s.n%int(troubles)), s.lasts)
	case suspend:
		m.slept += time.Duration(1+s.n%600) * time.Second
		if l := m.life; l != nil && l.alarm > 0 && l.alarm <= time.Since(m.began)+m.slept {
			l.sup.Wake(mailbox.Mail)
		}
	case crash:
		m.kill()
	case shutDown:
		if l := m.life; l != nil && l.told.IsZero() {
			l.told = time.Now()
			l.cancel()
		}
	case resolvers:
		m.servers = s.n % 4
		if m.life != nil {
			m.life.sup.Wake(mailbox.Resolvers)
		}
	case places:
		m.place = s.n % 3
		if m.life != nil {
			m.life.sup.Wake(mailbox.Resolvers)
		}
	case binary:
		m.tool = tinyproxy.Binary{Path: fmt.Sprint("/usr/bin/tinyproxy", s.n%2)}
	case forward:
		m.uplink = s.n
		m.event(2, netwatch0)
	case owned:
		if m.life != nil {
			if holdsOwned(m.seed) {
				vm.stopped, vm.decider = maybe, 0
			}
			m.life.sup.Owned(wire.Event{UID: uids.UID(vm.addr), Name: "h0.example", Type: "TXT", Count: 1})
		}
	case denied:
		if m.life != nil {
			m.life.events.Visited(events.Visit{IP: vm.addr, Host: "h1.example", Port: 443})
			m.life.events.Denied(events.Denial{VM: vm.name, IP: vm.addr, Host: "h0.example", Port: 80, Reason: events.ReasonConnect, UID: uids.UID(vm.addr)})
		}
	}
}

// holdsOwned reports whether the daemon of a seed stops an AppVM whose proxy somebody has taken over.
func holdsOwned(seed uint64) bool { return seed%2 == 1 }

// attach connects an AppVM by one vif more.
func (m *machine) attach(vm *appVM) {
	m.serial++
	domid := m.serial%30000 + 1
	vm.vifs = append(vm.vifs, domid)
	h := netwatch.Hint{Link: linkOf(domid), Host: vm.addr}
	if m.chance(what{kind: "hint"}, 4) == 0 {
		h = netwatch0
	}
	m.event(0, h)
}

// write writes a list. Some are written in two steps.
func (m *machine) write(to *list, s step) {
	lines := hosts(s.n) & (badLine - 1)
	if s.n>>12&1 == 1 {
		lines = 1<<(1+s.n%4) - 1
	}
	switch s.n >> 16 & 7 { // most people change what is there
	case 1, 2, 3:
		lines = to.lines&^badLine ^ 1<<(s.n%7)
	case 4, 5:
		lines = m.before[to]
	case 6:
		if lines = to.lines &^ badLine; slices.ContainsFunc(m.vms, func(vm *appVM) bool { return &vm.file == to }) {
			lines ^= includeLine
		}
	}
	lines = lines.whole()
	if to.kind == good {
		m.before[to] = to.lines &^ badLine
	}
	switch kind := s.n >> 8 % 16; kind {
	case 0, 1:
		lines |= badLine
		fallthrough
	default:
		*to = list{good, lines}
	case 2:
		*to = list{kind: refused}
	case 3, 4:
		*to = list{kind: halfDone}
		m.at(s.lasts, "written", func() {
			if to.kind == halfDone {
				*to = list{good, lines}
				m.changed()
			}
		})
	}
	m.changed()
}

// stopOrStart has a person stop or start an AppVM.
func (m *machine) stopOrStart(vm *appVM, d deed) {
	names := []string{vm.name}
	is := no
	if d == stop {
		is = yes
	}
	if is == no && m.life != nil && (vm.list().kind == none || m.life.version != m.version) {
		is = maybe // a list that does not exist is started by its name alone, and kill-all counts for its address
	}
	was, asked := vm.stopped, time.Now()
	known := m.life != nil && m.life.version == m.version && vm.list().kind != none
	m.verb(d.String(), func(sup *supervisor.Supervisor) (err error) {
		switch d {
		case stop:
			_, err = sup.Stop(context.Background(), names)
		case start:
			_, err = sup.Start(context.Background(), names)
		default:
			_, err = sup.Restart(context.Background(), names)
		}
		return err
	}, func(a *answer, err error) {
		if errors.As(err, new(*control.UnknownError)) {
			is = was // nothing has been decided
			err = nil
		} else if err == nil && d == restart && known {
			vm.restarted = asked
		}
		m.decided(a, err, is)
	}, vm)
}

// decided takes in that AppVMs are stopped now, or not, unless another verb has been asked for since.
func (m *machine) decided(a *answer, err error, is sure) {
	if fault := (*control.DaemonError)(nil); err != nil && !errors.As(err, &fault) {
		return
	}
	for _, vm := range a.decides {
		if vm.decider == a.n {
			if vm.stopped = is; is == yes {
				vm.endLessons()
			}
		}
	}
}

// allow has a person allow a host for a time, or take it back.
func (m *machine) allow(vm *appVM, s step) {
	if m.life == nil || !m.life.told.IsZero() {
		return
	}
	i, seconds := s.n%5, 1+s.n>>8%20
	switch {
	case s.what == takeBack:
		seconds = 0
	case s.n>>13%3 == 0:
		seconds *= 60 // for longer than a rest takes
	}
	name, boot := vm.name, time.Since(m.began)+m.slept
	before := vm.temp[i]
	if s.what == allow {
		vm.temp[i] = temporary{until: max(vm.temp[i].until, boot+time.Hour)}
	}
	m.verb(s.what.String(), func(sup *supervisor.Supervisor) error {
		_, err := sup.Allow(context.Background(), control.Temporary{Name: name, Hosts: []string{universe[i]}, Seconds: seconds})
		return err
	}, func(_ *answer, err error) {
		now := time.Since(m.began) + m.slept
		switch {
		case s.what == takeBack && err == nil:
			delete(vm.temp, i)
		case s.what == allow && err != nil:
			vm.temp[i] = temporary{until: max(now, before.until)}
		case s.what == allow:
			vm.temp[i] = temporary{until: now + time.Duration(seconds)*time.Second, sure: !vm.doubted, least: boot + time.Duration(seconds)*time.Second}
		}
	})
}

// learn has an AppVM learn, or ends its lesson.
func (m *machine) learn(vm *appVM, s step) {
	if m.life == nil || !m.life.told.IsZero() {
		return
	}
	name, seconds := vm.name, s.n>>8%16
	before := slices.Clone(vm.lessons)
	if seconds == 0 {
		m.verb("end the lesson", func(sup *supervisor.Supervisor) error {
			return sup.Learn(context.Background(), control.LearnRequest{Name: name}, nil)
		}, func(_ *answer, err error) {
			for _, l := range before {
				l.over = l.over || err == nil && vm.name == name
			}
		})
		return
	}
	ctx, goes := context.WithCancel(m.life.ctx)
	began := &lesson{life: m.life, until: time.Since(m.began) + m.slept + time.Hour}
	vm.lessons = append(slices.DeleteFunc(vm.lessons, func(l *lesson) bool { return l.over }), began)
	m.verb("learn", func(sup *supervisor.Supervisor) error {
		return sup.Learn(ctx, control.LearnRequest{Name: name, Seconds: seconds}, func(l control.Lesson) error {
			if l.Event == control.LessonBegins {
				m.read(func() {
					m.sometimes("a lesson")
					began.until = time.Since(m.began) + m.slept + time.Duration(seconds)*time.Second
				})
			}
			return nil
		})
	}, func(_ *answer, err error) {
		began.over = true
		goes()
	})
	if s.n>>4&1 == 1 {
		m.at(s.lasts, "the client goes", func() {
			began.over = true
			goes()
		})
	}
}

// break_ has something not work for a time.
func (m *machine) break_(t trouble, lasts time.Duration) {
	m.did("%v for %v", t, lasts)
	m.faults[t] = time.Now().Add(lasts)
	m.lasted[t] += lasts
	switch t {
	case unseen:
		if m.life != nil {
			for _, ends := range m.life.watchers {
				m.at(time.Microsecond, "watcher", func() {
					select {
					case ends <- errNot:
					default:
					}
				})
			}
		}
	case qubesDB:
		m.changed()
		m.at(lasts, "mended", m.changed)
	}
}

// kill kills the daemon, and with it all proxies: that is the signal of a parent's death.
func (m *machine) kill() {
	l := m.life
	if l == nil {
		return
	}
	if m.pending != nil {
		m.sometimes("the daemon is killed while it writes")
	}
	m.life, m.pending, l.dead = nil, nil, true
	l.cancel()
	for _, p := range m.procs {
		m.end(p, "die with the daemon", errEnded)
	}
	m.at(50*time.Millisecond, "start", m.newLife)
}
