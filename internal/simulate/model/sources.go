package model

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Source is where a list may be. For one AppVM the first source that has a list counts, and lists are never mixed. What cannot be used
// is no reason to take the next one.
type Source int

const (
	InDom0 Source = iota
	InFiles
	InFirewall
	sources
)

// lists is what there is for one AppVM. One of two lists of the same source is one too many.
type lists struct {
	Files    map[string]List // its rule files by name, as they are now
	Features map[string]List // dom0's, by what follows "vifproxy." in their name
	half     *List           // what there is of firewall settings that dom0 has not finished; nil if it has

	windows [sources][]List // by source, what may have been read since the last rest; the last is there now
	read    []List          // what may count because of that; the last does now
}

func newLists() lists {
	l := lists{Files: map[string]List{}, Features: map[string]List{}}
	for s := range l.windows {
		l.windows[s] = []List{{}}
	}
	l.weigh()
	return l
}

func (l *lists) latest(s Source) List { return l.windows[s][len(l.windows[s])-1] }

// Now returns the list that counts.
func (l *lists) Now() List { return l.read[len(l.read)-1] }

// MayCount returns all lists that may count, as far as one knows what the daemon has read.
func (l *lists) MayCount() []List { return l.read }

// counting returns which of three lists counts.
func counting(lists [sources]List) List {
	for s, list := range lists {
		if list.Kind != Absent {
			list.From = Source(s)
			return list
		}
	}
	return List{}
}

// combined returns what may count: sources are read one after the other, so any of their values may meet.
func combined(windows [sources][]List) (all []List) {
	for _, d := range windows[InDom0] {
		for _, f := range windows[InFiles] {
			for _, s := range windows[InFirewall] {
				if c := counting([sources]List{d, f, s}); !slices.Contains(all, c) {
					all = append(all, c)
				}
			}
		}
	}
	return all
}

func (l *lists) weigh() {
	now := counting([sources]List{l.latest(InDom0), l.latest(InFiles), l.latest(InFirewall)})
	l.read = slices.DeleteFunc(combined(l.windows), func(c List) bool { return c == now })
	l.read = append(l.read, now)
}

// settle notes that the daemon knows what there is now.
func (l *lists) settle() {
	for s := range l.windows {
		l.windows[s] = []List{l.latest(Source(s))}
	}
	l.weigh()
}

// alike reports whether a list has the source and the directives of all others. Connections go on by what the lines say, and not by
// what they match, so a change of format ends them. What directives open may end them too.
func (l List) alike(others []List) bool {
	return !slices.ContainsFunc(others, func(o List) bool { return o.Kind != Good || o.From != l.From || o.head() != l.head() })
}

// only returns the one list of a source.
func only(lists map[string]List) (l List) {
	if len(lists) > 1 {
		return List{Kind: Misread} // for one address: both are refused
	}
	for _, l = range lists {
	}
	return l
}

// setList is a change of one source that is seen whole or not at all.
func (m *Model) setList(vm *AppVM, s Source, l List) {
	next := vm.windows
	next[s] = []List{l}
	for _, list := range combined(next) {
		switch {
		case list.Kind == Absent:
			vm.cut()
		case list.From < s: // what has changed does not count
		case list.Kind == Good && !m.goesOn(vm, list):
			vm.disturbed = true
		}
	}
	if m.down {
		vm.windows[s] = nil // nobody has read what was there before
	}
	vm.windows[s] = append(slices.DeleteFunc(slices.Clone(vm.windows[s]), func(old List) bool { return old == l }), l)
	vm.weigh()
	m.mayForget(vm)
}

// goesOn reports whether connections go on when a list is in force: more is permitted then, and nothing less. A list that is refused
// changes nothing.
func (m *Model) goesOn(vm *AppVM, list List) bool {
	if len(m.template) > 1 {
		return false
	}
	t := m.template[0]
	inForce := !slices.ContainsFunc(vm.read, func(old List) bool { return old.Kind == Good && !m.mayFit(old, t) })
	return t.Kind == Good && !m.mayFit(list, t) || inForce && list.alike(vm.read) && m.adds(vm, list.Under(t).Permits)
}

// setFiles is a change of an AppVM's rule files that is seen whole or not at all.
func (m *Model) setFiles(vm *AppVM, change func(map[string]List)) {
	change(vm.Files)
	for _, shared := range m.shared { // files are read one after the other
		m.setList(vm, InFiles, only(vm.Files).With(shared))
	}
}

// put puts a list into a set of them; kind Absent takes it away.
func put(lists map[string]List, name string, l List) {
	if lists[name] = l; l.Kind == Absent {
		delete(lists, name)
	}
}

// setShared is a change of the list that rule files include.
func (m *Model) setShared(shared List) {
	if m.down {
		m.shared = nil
	}
	m.shared = append(slices.DeleteFunc(slices.Clone(m.shared), func(l List) bool { return l == shared }), shared)
	for _, vm := range m.VMs {
		if list := only(vm.Files); list.Includes {
			m.setList(vm, InFiles, list.With(shared))
		}
	}
}

// setHalf notes that dom0 writes firewall settings, and what there is of them if nothing tells that they are not complete. Watched
// says whether somebody surely sees the writing.
func (m *Model) setHalf(vm *AppVM, half List, watched bool) {
	vm.half = &half
	m.setList(vm, InFirewall, List{Kind: Misread})
	if !watched {
		m.halfMayCount()
	}
}

// halfMayCount notes that the daemon may begin to watch while settings are half there. Then nothing tells that they are.
func (m *Model) halfMayCount() {
	for _, vm := range m.VMs {
		if vm.half != nil {
			vm.cut()
			vm.windows[InFirewall] = slices.Insert(vm.windows[InFirewall], 0, *vm.half)
			vm.weigh()
		}
	}
}

// gap is a moment in which the rule directory is empty or not there.
func (m *Model) gap() {
	for _, vm := range m.VMs {
		now := vm.latest(InFiles)
		m.setList(vm, InFiles, List{})
		m.setList(vm, InFiles, now)
	}
	template := m.Template()
	m.setTemplate(List{Kind: Good})
	m.setTemplate(template)
}

// Shown returns the name of an AppVM in `show`: that of the list that counts; "" if there is none.
func (vm *AppVM) Shown() string {
	if vm.Now().Kind == Absent {
		return ""
	}
	files := vm.Files
	switch vm.Now().From {
	case InDom0:
		files = vm.Features
	case InFirewall:
		return nameOf(vm.IP)
	}
	return strings.TrimSuffix(slices.Min(slices.Collect(maps.Keys(files))), "."+vm.IP.String())
}

// nameOf returns the name of an AppVM of which only the address is known.
func nameOf(ip netip.Addr) string { return "vm-" + ip.String() }
