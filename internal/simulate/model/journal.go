package model

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// An Event is something that happens, or something that was seen. A journal has one in each line, as JSON.
type Event struct {
	Time  string       `json:"time,omitempty"` // for people
	What  What         `json:"what"`
	VM    netip.Addr   `json:"vm,omitzero"`
	VMs   []netip.Addr `json:"vms,omitempty"`
	Name  string       `json:"name,omitempty"` // of a list or a vif
	To    string       `json:"to,omitempty"`
	List  *List        `json:"list,omitempty"`
	On    bool         `json:"on,omitempty"`
	Held  []bool       `json:"held,omitempty"`
	Least Hosts        `json:"least,omitempty"`
	Most  Hosts        `json:"most,omitempty"`
	Show  []Row        `json:"show,omitempty"`
	Saw   *Policy      `json:"saw,omitempty"`
	Note  string       `json:"note,omitempty"`
}

// A What names the kind of an event.
type What string

const (
	begin      What = "begin"    // the first event: all AppVMs and hosts that there are
	file       What = "file"     // a rule file of an AppVM
	renamed    What = "renamed"  // a rule file
	feature    What = "feature"  // a list that dom0 has decided
	settings   What = "settings" // firewall settings that are complete
	half       What = "half"     // those that are not; on: the daemon surely sees it
	unwatched  What = "unwatched"
	gap        What = "gap"
	template   What = "template"
	shared     What = "shared" // the list that rule files include
	ceiling    What = "ceiling"
	connects   What = "connects"
	leaves     What = "leaves"
	strays     What = "strays"
	mayHold    What = "asked" // that an AppVM is stopped, or started
	held       What = "held"
	learns     What = "learns"
	allowed    What = "allowed" // for a time
	mayForget  What = "may forget"
	serves     What = "serves" // a proxy serves that permits what the list that counts says
	lacks      What = "lacks"  // proxies may not start from now on
	daemon     What = "daemon" // it begins; on: with a ceiling
	ended      What = "ended"
	rest       What = "rest" // the daemon says that it has done all that is to be done
	saw        What = "saw"  // what an AppVM reaches at rest
	noteOfTest What = "note"
)

// New returns a model of AppVMs that are not connected and have no lists. No daemon has run yet. Its journal goes to record, if that is
// not nil.
func New(all Hosts, record func(Event), vms ...netip.Addr) *Model {
	m := &Model{record: record}
	m.tell(Event{What: begin, Most: all, VMs: vms})
	return m
}

// do does what an event says, and writes it into the journal. It returns what is wrong with what was seen.
func (m *Model) do(e Event) error {
	if m.record != nil {
		m.record(e)
	}
	return m.apply(e)
}

// tell does what an event says that is about inputs. Only what was seen can be wrong.
func (m *Model) tell(e Event) {
	if err := m.do(e); err != nil {
		panic(fmt.Sprintf("%+v: %v", e, err))
	}
}

// apply does what an event says.
func (m *Model) apply(e Event) error {
	switch e.What { // those of nobody in particular
	case begin:
		*m = Model{record: m.record, all: e.Most, template: []List{{Kind: Good}}, ceilings: ceilings{ceiling: []List{{Kind: Misread}}}, shared: []List{{Kind: Misread}}}
		for _, ip := range e.VMs {
			m.VMs = append(m.VMs, &AppVM{IP: ip, lists: newLists(), held: map[bool]bool{false: true}, goods: map[Policy]bool{Nothing: true}})
		}
		return nil
	case unwatched:
		m.halfMayCount()
		return nil
	case gap:
		m.gap()
		return nil
	case template, shared, ceiling:
		if e.List == nil {
			return errors.New("no list")
		}
		map[What]func(List){template: m.setTemplate, shared: m.setShared, ceiling: m.setCeiling}[e.What](*e.List)
		return nil
	case lacks:
		if !e.On {
			m.lacks--
			return nil
		}
		m.mayLack()
		return nil
	case daemon:
		m.begins(e.On)
		m.down = false
		return nil
	case ended:
		m.ends()
		return nil
	case rest:
		var err error
		if e.Show != nil {
			err = m.Differs(e.Show)
		}
		m.settle()
		return err
	case noteOfTest:
		return nil
	}
	vm, err := m.vm(e.VM)
	if err != nil {
		return err
	}
	switch e.What {
	case connects:
		vm.connect(e.Name)
	case leaves:
		vm.disconnect(e.Name)
	case strays:
		vm.strays(e.Name, e.On)
	case renamed:
		m.setFiles(vm, func(files map[string]List) {
			files[e.To] = files[e.Name]
			delete(files, e.Name)
		})
	case mayHold:
		m.mayHold(vm, e.On)
	case held:
		vm.held = map[bool]bool{}
		for _, is := range e.Held {
			vm.held[is] = true
		}
	case learns:
		vm.learn(e.On)
	case allowed:
		vm.least, vm.most = e.Least, e.Most
		vm.was |= e.Most
	case mayForget:
		vm.goods[Nothing] = true
	case serves:
		if p := vm.Now().Under(m.Template()); m.fits(vm.Now(), m.Template(), m.latestCeiling()) {
			vm.goods, vm.was = map[Policy]bool{p: true}, vm.most
		}
	case file, feature, settings, half:
		return m.list(vm, e)
	case saw:
		if e.Saw == nil {
			return errors.New("nothing was seen")
		}
		return m.saw(vm, *e.Saw)
	default:
		return fmt.Errorf("%q is no event", e.What)
	}
	return nil
}

// list does what an event about a list of an AppVM says.
func (m *Model) list(vm *AppVM, e Event) error {
	if e.List == nil {
		return errors.New("no list")
	}
	switch e.What {
	case file:
		m.setFiles(vm, func(files map[string]List) { put(files, e.Name, *e.List) })
	case feature:
		put(vm.Features, e.Name, *e.List)
		m.setList(vm, InDom0, only(vm.Features))
	case settings:
		vm.half = nil
		m.setList(vm, InFirewall, *e.List)
	default:
		m.setHalf(vm, *e.List, e.On)
	}
	return nil
}

// learn notes that an AppVM is going to learn, or that this is over. Connections that are made meanwhile are cut when it is over.
func (vm *AppVM) learn(begins bool) {
	if !begins {
		vm.learns = max(0, vm.learns-1)
		return
	}
	vm.learns++
	vm.disturbed = true
}

// SetFile is a change of a rule file that is seen whole or not at all; kind Absent takes the file away.
func (m *Model) SetFile(vm *AppVM, name string, l List) {
	m.tell(Event{What: file, VM: vm.IP, Name: name, List: &l})
}

// Rename gives a rule file another name.
func (m *Model) Rename(vm *AppVM, from, to string) {
	m.tell(Event{What: renamed, VM: vm.IP, Name: from, To: to})
}

// SetFeature is a change of a list that dom0 has decided.
func (m *Model) SetFeature(vm *AppVM, name string, l List) {
	m.tell(Event{What: feature, VM: vm.IP, Name: name, List: &l})
}

// SetSettings is a change of firewall settings that are complete.
func (m *Model) SetSettings(vm *AppVM, l List) {
	m.tell(Event{What: settings, VM: vm.IP, List: &l})
}

// SetHalf notes that dom0 has written a part of firewall settings. Watched says whether the daemon surely sees the writing.
func (m *Model) SetHalf(vm *AppVM, l List, watched bool) {
	m.tell(Event{What: half, VM: vm.IP, List: &l, On: watched})
}

// Unwatched notes that the daemon may not see what dom0 writes.
func (m *Model) Unwatched() { m.tell(Event{What: unwatched}) }

// Gap notes that the rule directory was empty or away for a moment.
func (m *Model) Gap() { m.tell(Event{What: gap}) }

// SetTemplate is a change of the template.
func (m *Model) SetTemplate(l List) { m.tell(Event{What: template, List: &l}) }

// SetShared is a change of the list that rule files include.
func (m *Model) SetShared(l List) { m.tell(Event{What: shared, List: &l}) }

// SetCeiling is a change of the ceiling.
func (m *Model) SetCeiling(l List) { m.tell(Event{What: ceiling, List: &l}) }

// Connect notes that an AppVM comes, or gets one vif more.
func (m *Model) Connect(vm *AppVM, vif string) {
	m.tell(Event{What: connects, VM: vm.IP, Name: vif})
}

// Disconnect notes that a vif goes.
func (m *Model) Disconnect(vm *AppVM, vif string) {
	m.tell(Event{What: leaves, VM: vm.IP, Name: vif})
}

// Strays notes whether a vif has the route to an AppVM, and no gateway.
func (m *Model) Strays(vm *AppVM, vif string, on bool) {
	if on != slices.Contains(vm.Astray, vif) {
		m.tell(Event{What: strays, VM: vm.IP, Name: vif, On: on})
	}
}

// MayHold notes that an AppVM is going to be stopped, or started, or neither if the verb fails.
func (m *Model) MayHold(vm *AppVM, stopped bool) {
	m.tell(Event{What: mayHold, VM: vm.IP, On: stopped})
}

// Holds notes whether an AppVM is stopped, when no other verb is under way.
func (m *Model) Holds(vm *AppVM, is ...bool) {
	if len(is) != len(vm.held) || slices.ContainsFunc(is, func(is bool) bool { return !vm.held[is] }) {
		m.tell(Event{What: held, VM: vm.IP, Held: is})
	}
}

// Learns notes that an AppVM is going to learn, or that this is over.
func (m *Model) Learns(vm *AppVM, begins bool) {
	m.tell(Event{What: learns, VM: vm.IP, On: begins})
}

// Allow notes what is surely allowed to an AppVM for a time, and what may be.
func (m *Model) Allow(vm *AppVM, least, most Hosts) {
	if vm.least != least || vm.most != most {
		m.tell(Event{What: allowed, VM: vm.IP, Least: least, Most: most})
	}
}

// Forgets notes that the last good policy of an AppVM may be forgotten.
func (m *Model) Forgets(vm *AppVM) {
	if !vm.goods[Nothing] {
		m.tell(Event{What: mayForget, VM: vm.IP})
	}
}

// Serves notes that an AppVM has a proxy that permits what its list says now.
func (m *Model) Serves(vm *AppVM) {
	if len(vm.goods) != 1 || !vm.goods[vm.Now().Under(m.Template())] {
		m.tell(Event{What: serves, VM: vm.IP})
	}
}

// Lack notes that proxies may not start from now on, for one more reason, or for one less.
func (m *Model) Lack(on bool) { m.tell(Event{What: lacks, On: on}) }

// Starts notes that a daemon begins, with a ceiling or without.
func (m *Model) Starts(under bool) { m.tell(Event{What: daemon, On: under}) }

// Ends is the end of the daemon.
func (m *Model) Ends() { m.tell(Event{What: ended}) }

// Note writes something into the journal that is for people only.
func (m *Model) Note(what string) { m.tell(Event{What: noteOfTest, Note: what}) }

// Rest notes that the daemon has read all inputs as they are now, and has done what is to be done about them. It returns what is wrong
// with what `show` has said; show may be nil.
func (m *Model) Rest(show []Row) error { return m.do(Event{What: rest, Show: show}) }

// Saw notes what an AppVM reaches at a rest, and returns what is wrong with that.
func (m *Model) Saw(vm *AppVM, seen Policy) error {
	return m.do(Event{What: saw, VM: vm.IP, Saw: &seen})
}

// Disturb notes something that may cut the connections of AppVMs, or of all if none is named. It changes nothing at rest, so no journal
// has it.
func (m *Model) Disturb(vms ...*AppVM) {
	if len(vms) == 0 {
		vms = m.VMs
	}
	for _, vm := range vms {
		vm.disturbed = true
	}
}

// HeldNow returns what Holds is told to have an AppVM as it is now.
func (vm *AppVM) HeldNow() []bool { return slices.Collect(maps.Keys(vm.held)) }

// Write returns what writes events into a journal.
func Write(w io.Writer) func(Event) {
	return func(e Event) {
		e.Time = time.Now().Format("15:04:05.000000")
		line, err := json.Marshal(e)
		if err == nil {
			_, err = w.Write(append(line, '\n'))
		}
		if err != nil {
			panic(err) // of a test
		}
	}
}

// A Difference is a line of a journal at which real state is not the expected one.
type Difference struct {
	Line int
	Event
	Err error
}

func (d Difference) String() string { return fmt.Sprintf("line %d (%s): %v", d.Line, d.Time, d.Err) }

// Replay tells a new model all events of a journal, and returns where what was seen differs from what is expected. Rests says how often
// something was compared.
func Replay(journal io.Reader) (differences []Difference, rests int, err error) {
	m := &Model{}
	lines := bufio.NewScanner(journal)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return differences, rests, fmt.Errorf("line %d: %w", n, err)
		}
		if (n == 1) != (e.What == begin) {
			return differences, rests, fmt.Errorf("line %d: a journal has its begin in its first line, and nowhere else", n)
		}
		switch err := m.apply(e); {
		case err != nil:
			differences = append(differences, Difference{n, e, err})
		case e.What == rest:
			rests++
		}
	}
	return differences, rests, lines.Err()
}
