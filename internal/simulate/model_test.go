package simulate_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/policy"
	"vifproxy/internal/simulate/model"
	"vifproxy/rules"
	"vifproxy/rules/flaws"
	"vifproxy/tinyproxy"
)

// This file is what the simulation knows of what should be: from the inputs alone, what an AppVM may reach. It has no idea of how the
// supervisor does that.

// hosts is a set of what lines of lists permit, a bit each.
type hosts uint16

// universe is the lines. The last one is refused by tinyproxy, which is the judge of expressions.
var universe = []string{"h0.example", "h1.example", "h2.example", "h3.example", "h4.example:8443", "203.0.113.7", "#: egress 10.9.0.5:5432", "bad.example", "#: include common", portless}

// portless is the line of a port without that: it may go, and its host stay.
const portless = "h4.example"

const (
	portLine   hosts = 1 << 4
	addrLine   hosts = 1 << 5
	egressLine hosts = 1 << 6
	badLine    hosts = 1 << 7
	namesLines       = portLine - 1

	includeLine  hosts = 1 << 8
	portlessLine hosts = 1 << 9  // goes with portLine, see whole
	lessonLine   hosts = 1 << 10 // all names, of which no line speaks
	everyLine          = includeLine - 1 | portlessLine
	noCeiling          = ^hosts(0)
	aList        hosts = 1 << 15 // that there is one

	upstream = "up.example"
)

// whole returns all that lines permit: a line with a port permits its host too.
func (h hosts) whole() hosts {
	if h&portLine != 0 {
		h |= portlessLine
	}
	return h
}

func (h hosts) String() string {
	all := h.words()
	if h&lessonLine != 0 {
		all = append(all, "all names")
	}
	return "{" + strings.Join(all, ", ") + "}"
}

// hostsOf returns what a policy permits.
func hostsOf(p *policy.Policy) (h hosts) {
	add := func(line string) {
		i := slices.Index(universe, line)
		if i < 0 {
			panic("no line " + line)
		}
		h |= nameOf(i)
	}
	for _, line := range p.Rules {
		switch host, temporary := p.Temporary[line.Text]; {
		case temporary:
			add(host.String())
		case line.Source != "":
			add(line.Source)
		default: // of a lesson
			if bit := bitOf()[line.Text]; bit != 0 {
				h |= bit
			} else {
				h |= lessonLine
			}
		}
	}
	if len(p.Egress) > 0 {
		h |= egressLine
	}
	if len(p.Ports) > 0 {
		h |= portLine
	}
	return h
}

// nameOf returns what a line permits by its name alone.
func nameOf(i int) hosts {
	if h := hosts(1) << i; h != portLine {
		return h
	}
	return portlessLine
}

// bitOf returns what lines mean, as tinyproxy gets them.
var bitOf = sync.OnceValue(func() map[string]hosts {
	bits := map[string]hosts{}
	file := parsed("all", netip.AddrFrom4([4]byte{10, 137, 24, 99}), lessonLine-1&^includeLine, 0, rules.InFile)
	p, err := policy.New(file, nil, parsedTemplate(""), policy.Input{Bind: gateways[0]})
	if err != nil {
		panic(err)
	}
	for _, line := range p.Rules {
		bits[line.Text] = nameOf(slices.Index(universe, line.Source))
	}
	return bits
})

// A list is what is written for an AppVM.
type list struct {
	kind  listKind
	lines hosts
}

type listKind int

const (
	none     listKind = iota
	good              // it may have a line that tinyproxy refuses
	refused           // nobody can use it
	halfDone          // somebody is writing it
)

func (l list) String() string {
	return [...]string{"none", l.lines.String(), "refused", "half written"}[l.kind]
}

// A window is a value, and those before it that the daemon may still believe in.
type window[T comparable] struct {
	now    T
	before []aged[T]
}

type aged[T any] struct {
	value T
	since time.Duration // in calm time, when another followed it
}

// reaction is how long the daemon may take, while nothing keeps it from it, until nothing is served by what was an input.
const reaction = 2500 * time.Millisecond

func (w *window[T]) set(v T, calm time.Duration) {
	if v == w.now {
		return
	}
	w.before = append(w.before, aged[T]{w.now, calm})
	w.now = v
	w.before = slices.DeleteFunc(w.before, func(a aged[T]) bool { return calm-a.since > 2*reaction })
}

// union returns all that values that may be believed in have.
func union(w *window[hosts], calm time.Duration) (h hosts) {
	w.any(calm, func(is hosts) bool { h |= is; return false })
	return h
}

// any reports whether a value that may be believed in has a property.
func (w *window[T]) any(calm time.Duration, has func(T) bool) bool {
	return has(w.now) || slices.ContainsFunc(w.before, func(a aged[T]) bool { return calm-a.since <= reaction && has(a.value) })
}

// sure is what is known of something that a verb has asked for.
type sure int

const (
	no sure = iota
	maybe
	yes
)

// An appVM is one AppVM of the model.
type appVM struct {
	addr             netip.Addr
	name             string
	gateway          netip.Addr
	vifs             []int // domids
	file             list
	dom0             list
	shared           *list // that its file may include
	inRange          bool  // it has no list of its own but that of a range
	stopped          sure
	unserved, astray time.Duration     // how long it has not been served in calm time, or by a process that has lost its port
	decider          int               // the last verb that stops it or starts it
	temp             map[int]temporary // by line
	doubted          bool              // since the last rest, and the daemon may read it later than it allows more
	lessons          []*lesson
	restarted        time.Time          // when the last restart was asked for that has succeeded
	permits          window[hosts]      // its list, or what it had before
	forATime         window[hosts]      // what is allowed for a time
	learns           window[hosts]      // what it may reach while it learns
	teaches          window[bool]       // its list is one with which it may learn
	says             window[hosts]      // the lines of its list, which tinyproxy may refuse: nobody knows before it has
	here             window[bool]       // connected
	at               window[netip.Addr] // its gateway
	demands          window[hosts]      // what a process may permit for its list to leave it alone, and aList; all, if nobody can use it
	tooWide          time.Duration      // for how long the fence has opened what its list does not, while the daemon could close it
	kept             hosts              // what it may have as long as its list cannot be used
	keeping          bool
	connection       int                 // counts those that it has had
	known            int                 // of which the daemon has read
	steady           bool                // it is served as its list says, or was before that could not be used
	judged           list                // its list, as last judged
	readBy           *life               // which has read that, and could use it
	deaths           map[hosts]time.Time // when the last process with these lines has died
}

// A lesson is one that a person has asked for.
type lesson struct {
	life  *life
	until time.Duration // in boot time
	over  bool
}

type temporary struct {
	until time.Duration // in boot time
	sure  bool
	least time.Duration // until when, if it is sure
}

const vmCount = 5

func newVMs() (all []*appVM) {
	for i := range vmCount {
		vm := &appVM{addr: netip.AddrFrom4([4]byte{10, 137, 24, byte(i + 1)}), name: fmt.Sprintf("vm%d", i), gateway: gateways[0], temp: map[int]temporary{}, deaths: map[hosts]time.Time{}}
		if i == vmCount-1 {
			vm.addr = netip.AddrFrom4([4]byte{10, 137, 24, 130})
			vm.inRange, vm.name = true, "disp-"+vm.addr.String()
		}
		all = append(all, vm)
	}
	return all
}

var gateways = []netip.Addr{netip.MustParseAddr("10.138.24.1"), netip.MustParseAddr("10.138.24.2")}

// written returns the list that counts.
func (vm *appVM) written() list {
	if vm.dom0.kind != none {
		return vm.dom0
	}
	return vm.file
}

// list returns what the list that counts is, with what it includes.
func (vm *appVM) list() list {
	l := vm.written()
	switch {
	case l.kind != good || l.lines&includeLine == 0:
		return l
	case vm.shared.kind == good:
		return list{good, (l.lines | vm.shared.lines) &^ includeLine}
	}
	return list{kind: max(vm.shared.kind, refused)} // none is none of it
}

// endLessons says that no lesson goes on: the AppVM was stopped, or has gone.
func (vm *appVM) endLessons() {
	for _, l := range vm.lessons {
		l.over = true
	}
}

// lesson returns what an AppVM may reach because it learns.
func (m *machine) lesson(vm *appVM) hosts {
	if !slices.ContainsFunc(vm.lessons, func(l *lesson) bool {
		return !l.over && l.life == m.life && l.until > time.Since(m.began)+m.slept
	}) {
		return 0
	}
	if m.ceiling.now == noCeiling {
		return lessonLine | namesLines | portlessLine
	}
	return m.ceiling.now &^ egressLine
}

func (vm *appVM) temporary() (h hosts) {
	for i := range vm.temp {
		h |= 1 << i
	}
	return h.whole()
}

func (vm *appVM) forgetTemporary() { clear(vm.temp) }

// doubtTemporary says that what was allowed for a time may have been forgotten: the list has gone, or has another name.
func (vm *appVM) doubtTemporary() {
	vm.doubted = true
	for i, t := range vm.temp {
		t.sure = false
		vm.temp[i] = t
	}
}

// surely returns what is allowed for a time, without a doubt.
func (vm *appVM) surely(m *machine) (h hosts) {
	for i, t := range vm.temp {
		if t.sure && t.least > time.Since(m.began)+m.slept {
			h |= 1 << i
		}
	}
	return h.whole()
}

// forgetUp says that the last good rules of an AppVM may be taken back or forgotten.
func (m *machine) forgetUp(vm *appVM) {
	vm.steady = false
	m.expected.Forgets(m.expected.VMs[slices.Index(m.vms, vm)])
}

// wasBound takes in that a process serves. If its rules are those of the list, they are the last good ones. If not, they may be that for a
// moment, and be forgotten, because the list has taken something away.
func (vm *appVM) wasBound(p *proc) {
	switch {
	case vm.list() != (list{good, p.hosts}) || p.connection != vm.connection || p.tmpl != p.m.tmpl:
		p.m.forgetUp(vm)
	case !vm.keeping && p.m.life.version == p.m.version:
		vm.steady = true
		p.m.expected.Serves(p.m.expected.VMs[slices.Index(p.m.vms, vm)])
	}
}

// templates are what the template may say.
var templates = []string{"", "ConnectPort 9443\n", "Upstream http " + upstream + ":3128 \"h1.example\"\n", "Nonsense yes\n", "Timeout 60\n"}

const (
	brokenTemplate = 3
	anyTemplate    = -1
)

// templateOf returns the template of a policy.
func templateOf(p *policy.Policy) int {
	return slices.IndexFunc(templates, func(text string) bool {
		return text == "" && p.Template.Same(builtin) || text != "" && text != templates[brokenTemplate] && p.Template.Same(parsedTemplate(text))
	})
}

// startedAgain is more than the longest time until a process that has died is started again (lastRetry in package backoff).
const startedAgain = time.Minute

// judge takes in that inputs may have changed: it notes what each AppVM should have now.
func (m *machine) judge() {
	m.tell()
	for _, vm := range m.vms {
		vm.here.set(len(vm.vifs) > 0, m.calm)
		l := vm.list()
		if at, died := vm.deaths[l.lines]; l != vm.judged && died && time.Since(at) < startedAgain {
			m.forgetUp(vm) // it does not start at once, and takes something away nevertheless
		}
		follows := l != vm.judged
		vm.judged = l
		vm.steady = vm.steady && len(vm.vifs) > 0 && vm.stopped == no && l.kind != none
		beyond := l.kind == good && (m.noCeiling || l.lines&^m.ceiling.now != 0)
		if vm.says.set(l.lines, m.calm); beyond {
			vm.says.set(0, m.calm)
		}
		vm.forATime.set(vm.temporary(), m.calm)
		vm.at.set(vm.gateway, m.calm)
		keep := beyond || l.kind == refused || l.kind == halfDone || m.tmpl == brokenTemplate && l.kind == good || l.kind == good && l.lines&badLine != 0
		if keep && !vm.keeping {
			vm.kept = union(&vm.permits, m.calm)
			if vm.readBy != nil && vm.readBy == m.life { // whether its process has come up or not
				vm.kept = vm.permits.now
			}
		}
		if follows || keep {
			vm.readBy = nil
		}
		switch vm.keeping = keep; {
		case l.kind == none:
			vm.demands.set(0, m.calm)
		case l.kind == good && !beyond && m.tmpl != brokenTemplate: // tinyproxy may refuse it, or it may not start
			vm.demands.set(l.lines|aList, m.calm)
		default:
			vm.demands.set(noCeiling, m.calm)
		}
		vm.learns.set(m.lesson(vm), m.calm)
		vm.teaches.set(l.kind == good && !keep, m.calm)
		if keep {
			vm.kept &= union(&m.ceiling, m.calm)
			if len(vm.vifs) == 0 {
				vm.kept = 0
			}
			vm.permits.set(vm.kept, m.calm)
			continue
		}
		h := hosts(0)
		if l.kind == good {
			h = l.lines
		}
		vm.permits.set(h, m.calm)
	}
	t := m.tmpl
	if slices.ContainsFunc(m.vms, func(vm *appVM) bool { return vm.keeping }) {
		t = anyTemplate // last good rules are under the template of then
	}
	m.tmpls.set(t, m.calm)
}

// mayReach returns what a process of an AppVM may permit now. During a lesson, names count, but not for the fence.
func (m *machine) mayReach(vm *appVM, names bool) hosts {
	h := union(&vm.permits, m.calm) | union(&vm.forATime, m.calm) |
		union(&vm.says, m.calm) // a process that permits no more than that may serve until tinyproxy takes it
	if names && vm.teaches.any(m.calm, func(is bool) bool { return is }) {
		h |= union(&vm.learns, m.calm)
	}
	return h & union(&m.ceiling, m.calm)
}

// rules returns what Inputs.Rules returns.
func (m *machine) rules() (s rules.Set) {
	text := templates[m.tmpl]
	switch {
	case m.tmpl == brokenTemplate:
		s.TemplateErr = &rules.Error{Path: "config", Line: 1, Flaw: flaws.Flaw{Text: "Nonsense"}}
	case text == "":
		s.Template = builtin
	default:
		s.Template = parsedTemplate(text)
	}
	if c := m.ceiling.now; c != noCeiling {
		s.Ceiling = parsedCeiling(c)
		if m.noCeiling {
			s.CeilingErr = &rules.Error{Path: "ceiling", Flaw: flaws.Flaw{Text: "is not there"}}
		}
	}
	for _, vm := range m.vms {
		l, origin := vm.list(), rules.InFile
		written := vm.written().lines
		if vm.dom0.kind != none {
			origin = rules.InDom0
		}
		switch {
		case l.kind == none:
		case vm.inRange && origin == rules.InFile:
			r := rules.Range{Name: "disp", In: netip.MustParsePrefix("10.137.24.128/25"), Path: "disp.10.137.24.128_25"}
			if l.kind == good {
				r.File = parsed(r.Path, netip.Addr{}, written, m.shared.lines, origin)
			} else {
				r.Err = unusable(r.Path, l.kind)
			}
			s.Ranges = append(s.Ranges, r)
		case l.kind == good:
			s.Files = append(s.Files, parsed(vm.name, vm.addr, written, m.shared.lines, origin))
		default:
			s.Refused = append(s.Refused, rules.Refused{Name: vm.name, Addr: vm.addr, Path: vm.name, Origin: origin, Err: unusable(vm.name, l.kind)})
		}
		if l.kind == halfDone {
			s.Again = 50 * time.Millisecond
		}
	}
	slices.SortFunc(s.Files, func(a, b rules.File) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Refused, func(a, b rules.Refused) int { return strings.Compare(a.Path, b.Path) })
	if s.Unknown = m.failing(qubesDB); s.Unknown != nil {
		s.Again = time.Second
	}
	return s
}

var builtin = rules.Builtin()

func unusable(path string, kind listKind) error {
	return &rules.Error{Path: path, Line: 1, Flaw: flaws.Flaw{Text: "cannot be used"}, Unsettled: kind == halfDone}
}

// Parsing takes most of a step's time, and all runs parse the same few texts.
var texts struct {
	sync.Mutex
	files     map[string]rules.File
	templates map[string]rules.Template
	ceilings  map[hosts]*rules.Ceiling
	dir       string // of the lists that files include
}

// words returns the lines of a list.
func (h hosts) words() (all []string) {
	for i, line := range universe {
		if h>>i&1 == 1 && !(line == portless && h&portLine != 0) {
			all = append(all, line)
		}
	}
	return all
}

// text returns a list as a person writes it. Without lines it has a format all the same, because that is the format of what is allowed
// for a time too.
func text(lines hosts) string {
	return "#: format domains\n" + strings.Join(lines.words(), "\n") + "\n"
}

// parsedCeiling returns a ceiling. As with the daemon's, it is the same one as long as its text is the same.
func parsedCeiling(lines hosts) *rules.Ceiling {
	texts.Lock()
	defer texts.Unlock()
	c := texts.ceilings[lines]
	if c == nil {
		var err error
		if c, err = rules.ParseCeiling("/rules/ceiling", []byte(text(lines))); err != nil {
			panic(err)
		}
		if texts.ceilings == nil {
			texts.ceilings = map[hosts]*rules.Ceiling{}
		}
		texts.ceilings[lines] = c
	}
	return c
}

func parsed(name string, addr netip.Addr, lines, shared hosts, origin rules.Origin) rules.File {
	texts.Lock()
	defer texts.Unlock()
	path := name
	if addr.IsValid() {
		path = name + "." + addr.String()
	}
	if lines&includeLine == 0 {
		shared = 0
	}
	key := fmt.Sprint(path, uint(lines), uint(shared), origin)
	f, ok := texts.files[key]
	if ok {
		return f
	}
	var err error
	if origin == rules.InFile {
		if lines&includeLine != 0 {
			if err := os.WriteFile(filepath.Join(texts.dir, rules.SharedDir, "common"), []byte(text(shared)), 0o600); err != nil {
				panic(err)
			}
		}
		f, err = rules.ParseFile(filepath.Join(texts.dir, path), []byte(text(lines)))
	} else {
		f, err = (&rules.List{Name: name, Addr: addr, Path: "/vm-config/" + path, Origin: origin, Lines: lines.words()}).Parse()
	}
	if err != nil {
		panic(err)
	}
	if texts.files == nil {
		texts.files = map[string]rules.File{}
	}
	texts.files[key] = f
	return f
}

func parsedTemplate(more string) rules.Template {
	texts.Lock()
	defer texts.Unlock()
	t, ok := texts.templates[more]
	if !ok {
		var err error
		t, err = rules.ParseTemplate("/rules/config", "Listen {bind_ip}\nPort {port}\nAllow {vm_ip}\nFilter \"{rules_file}\"\nFilterDefaultDeny Yes\nConnectPort 443\n"+more)
		if err != nil {
			panic(err)
		}
		if texts.templates == nil {
			texts.templates = map[string]rules.Template{}
		}
		texts.templates[more] = t
	}
	return t
}

// of returns the AppVM with an address.
func (m *machine) of(addr netip.Addr) *appVM {
	i := slices.IndexFunc(m.vms, func(vm *appVM) bool { return vm.addr == addr })
	if i < 0 {
		panic("no AppVM " + addr.String())
	}
	return m.vms[i]
}

var uids tinyproxy.Identities

// check looks whether what must always hold holds now.
func (m *machine) check() {
	for _, b := range m.kernel.Bindings {
		p := m.procs[b.To.Port()]
		if b.Local() {
			continue
		}
		vm := m.of(b.Addr)
		switch {
		case p != nil && p.vm != vm:
			m.violated("%v leads to the proxy of %v", b, p.vm.addr)
		case vm.stopped == yes && p != nil:
			m.violated("%v, and its AppVM is stopped", b)
		case !vm.here.any(m.calm, func(here bool) bool { return here }):
			m.violated("%v, and its AppVM has gone", b)
		}
	}
	for _, p := range m.procs {
		if p.vm.stopped == yes {
			m.violated("a process of %v runs at %d, and its AppVM is stopped", p.vm.addr, p.port)
		}
		if more := p.hosts &^ m.mayReach(p.vm, true); more != 0 && len(p.vm.vifs) > 0 {
			m.violated("the process of %v at %d permits %v, which no list permits", p.vm.addr, p.port, more)
		}
	}
	for _, f := range m.kernel.Fence.Proxies {
		i := slices.IndexFunc(m.vms, func(vm *appVM) bool { return uids.UID(vm.addr) == f.UID })
		if i < 0 {
			continue // of a trial
		}
		vm := m.vms[i]
		if more := opens(f) &^ m.mayReach(vm, false); more != 0 && len(vm.vifs) > 0 || f.AnyAddress {
			m.violated("the fence opens %v to %v, which no list permits", more, vm.addr)
		}
	}
	if slices.Contains(m.kernel.Fence.Ports, 9443) && !m.tmpls.any(m.calm, func(t int) bool { return t == 1 || t == anyTemplate }) {
		m.violated("the fence opens a port that the template has not")
	}
	for _, p := range m.procs { // a process takes 2 s to die
		if since := p.life.unfenced; !p.life.dead && !since.IsZero() && time.Since(since) > 5*time.Second {
			m.violated("the process of %v at %d runs, and the daemon has known for %v that the fence does not stand", p.vm.addr, p.port, time.Since(since))
		}
	}
}

// wait has calm time pass for AppVMs that wait for something.
func (m *machine) wait(d time.Duration) {
	for _, vm := range m.vms {
		var serves *proc
		for _, b := range m.kernel.Bindings {
			if p := m.procs[b.To.Port()]; b.Addr == vm.addr && p != nil {
				serves = p
			}
		}
		if serves == nil && m.quiet && len(vm.vifs) > 0 && vm.stopped == no && vm.list().kind == good && !vm.keeping {
			vm.unserved += d
		} else {
			vm.unserved = 0
		}
		if vm.unserved > reaction {
			m.violated("%v has not been served for %v, although nothing fails", vm.addr, vm.unserved)
		}
		if serves != nil && serves.lost && !m.fails(listeners) {
			vm.astray += d
		} else {
			vm.astray = 0
		}
		bound := 5*time.Second + m.lasted[listeners]*3/2
		if serves != nil && serves.unheard {
			bound += look
		}
		if vm.astray > bound {
			m.violated("%v is served by a process that has lost its port, for %v", vm.addr, vm.astray)
		}
		for _, p := range m.procs { // looks at processes that have retired are 1 s apart
			if p.vm != vm {
				continue
			}
			if p.idle += d; serves == nil || serves == p || serves.learns || p.bound.IsZero() || p.clients > 0 || time.Now().Add(-d).Before(m.faults[looking]) {
				p.idle = 0
			}
			if p.idle > 4*time.Second {
				m.violated("the process of %v at %d has retired, and has had no clients for %v", vm.addr, p.port, p.idle)
			}
		}
	}
}

// linger has time pass for what the daemon could do, whatever else fails.
func (m *machine) linger(d time.Duration) {
	// A check that takes too long counts as failed after 2 s, and looks whether it does every 2 s. Processes take 2 s to die. A hint may be lost.
	bound := 7 * time.Second
	if time.Since(m.failed) > 10*time.Second && time.Since(m.tearing) > 10*time.Second { // the first write that takes too long is noticed
		bound = 2500 * time.Millisecond
		if time.Since(m.faults[endSlow]) < 10*time.Second {
			bound += 2 * time.Second
		}
	}
	if m.amidst { // the daemon asks 2 s after a write has begun whether somebody has changed the firewall, and the check follows the write
		bound += 2 * time.Second
	}
	if m.stale[2] {
		bound += look + 10*time.Second
	}
	if m.life != nil && !m.life.told.IsZero() { // the check that is under way, the next one, and the last write have 500 ms each
		bound += time.Second
	}
	if !m.fenced && len(m.procs) > 0 && time.Since(m.unfenced) > bound && m.life != nil {
		m.violated("processes run without the fence for %v", time.Since(m.unfenced))
	}
	writable := m.life != nil && m.life.told.IsZero() && m.life.wrote && m.fenced && m.pending == nil && !m.fwFailed && time.Now().After(m.tearing) &&
		!slices.ContainsFunc([]trouble{firewallFails, firewallMoody, firewallUnfenced, firewallShut, firewallSlow, chains}, m.fails)
	for i := range m.blind { // links, rules, firewall
		readable := m.life != nil && m.life.told.IsZero() && m.fails(unseen) && m.stale[i] && !m.isSlow()
		switch i {
		case 0:
			readable = readable && !m.fails(links)
		case 1:
			readable = readable && !m.fails(ruleFiles) && !m.fails(qubesDB)
		case 2:
			readable = readable && writable
		}
		if m.blind[i] += d; !readable {
			m.blind[i] = 0
		}
		bound := 5500 * time.Millisecond // it reads what nobody watches every 5 s
		if i == 2 {
			bound += time.Second // checks of the firewall that follow many others wait
		}
		if m.blind[i] > bound {
			m.violated("the daemon has not read its %s for %v after they changed, although it knows that nobody watches them", watched[i].name, m.blind[i])
		}
	}
	known := writable && m.life.version == m.version && !m.life.truncated && !m.stale[0] && !m.stale[1] && !m.fails(ruleFiles) && !m.fails(qubesDB) && !m.fails(links)
	for _, vm := range m.vms {
		var more hosts
		for _, f := range m.kernel.Fence.Proxies {
			if f.UID == uids.UID(vm.addr) {
				more = opens(f) &^ ((vm.permits.now | vm.says.now | union(&vm.forATime, m.calm)) & union(&m.ceiling, m.calm))
			}
		}
		if vm.tooWide += d; !known || more == 0 || len(vm.vifs) == 0 {
			vm.tooWide = 0
		}
		if vm.tooWide > 50*time.Millisecond {
			m.violated("the fence opens %v to %v, and has for %v since the daemon has read that no list permits it", more, vm.addr, vm.tooWide)
		}
	}
}

// opens returns what the fence opens to a proxy.
func opens(f firewall.Proxy) (h hosts) {
	if len(f.Openings) > 0 {
		h |= egressLine
	}
	if len(f.Ports) > 0 {
		h |= portLine
	}
	if len(f.Listed) > 0 {
		h |= addrLine
	}
	return h
}

// atRest looks whether everything is exactly what the inputs say, when nothing fails and everything has had its time.
func (m *machine) atRest() {
	if !m.fenced {
		m.violated("at rest: the fence does not stand")
	}
	bindings := map[netip.Addr]map[string]uint16{}
	for _, b := range m.kernel.Bindings {
		if bindings[b.Addr] == nil {
			bindings[b.Addr] = map[string]uint16{}
		}
		bindings[b.Addr][b.Vif] = b.To.Port()
	}
	m.tell()
	m.expected.Rest(nil) //nolint:errcheck // nothing has been seen yet
	for i, vm := range m.vms {
		serves := m.vmAtRest(vm, bindings[vm.addr])
		seen := model.Nothing
		if serves != nil {
			seen = model.Policy{Served: true, Permits: model.Hosts(serves.hosts)}
		}
		if err := m.expected.Saw(m.expected.VMs[i], seen); err != nil {
			m.violated("at rest: %v", err)
		}
	}
}

// vmAtRest looks whether the bindings of an AppVM, its processes and its files belong together, and returns the process that serves it;
// nil if none does.
func (m *machine) vmAtRest(vm *appVM, bound map[string]uint16) (serves *proc) {
	var all []*proc
	for _, p := range m.procs {
		if p.vm == vm {
			all = append(all, p)
		}
	}
	for vif, port := range bound {
		p := m.procs[port]
		if p == nil || p.lost {
			m.violated("at rest: %s %v leads to port %d, where nobody listens", vif, vm.addr, port)
			return nil
		}
		if serves != nil && serves != p {
			m.violated("at rest: the vifs of %v lead to two proxies", vm.addr)
		}
		serves = p
	}
	if serves == nil {
		if len(all) > 0 {
			m.violated("at rest: %v has %d processes, and is not served", vm.addr, len(all))
		}
		return nil
	}
	for _, v := range vifsOf(vm) {
		if bound[v] == 0 {
			m.violated("at rest: %v is not served at %s", vm.addr, v)
		}
	}
	if len(bound) != len(vm.vifs) || serves.bind != vm.gateway {
		m.violated("at rest: %v has the bindings %v at %v", vm.addr, bound, serves.bind)
	}
	if !vm.keeping && serves.began.Before(vm.restarted) {
		m.violated("at rest: %v is served by a process that is older than its restart", vm.addr)
	}
	for _, p := range all {
		if p != serves && (p.clients == 0 || p.hosts&^serves.hosts != 0) {
			m.violated("at rest: an old process of %v runs at %d with %d clients and %v", vm.addr, p.port, p.clients, p.hosts)
		}
	}
	if m.shown[vm.addr] != serves.port {
		m.violated("at rest: the files of %v tell of port %d, and %d serves", vm.addr, m.shown[vm.addr], serves.port)
	}
	return serves
}

var errEnded = errors.New("it died")
