package main

import (
	"maps"
	"slices"
	"strings"
)

// This file is what the chaos run knows of where lists are. For one AppVM the first source that has a list counts, and lists are never
// mixed; what cannot be used is no reason to take the next one.

// source is where a list may be, in the order in which they count.
type source int

const (
	inDom0 source = iota
	inFiles
	inFirewall
	sources
)

// lists is what there is for one AppVM. One of two lists of the same source is one too many.
type lists struct {
	files    map[string]content // its rule files by name, as they are now
	features map[string]content // dom0's, by what follows "vifproxy." in their name
	half     *content           // what there is of firewall settings that dom0 has not finished; nil if it has

	windows [sources][]content // by source, what may have been read since the last settled moment; the last is there now
	read    []content          // what may count because of that; the last does now
}

func newLists() lists {
	l := lists{files: map[string]content{}, features: map[string]content{}}
	for s := range l.windows {
		l.windows[s] = []content{{}}
	}
	l.weigh()
	return l
}

func (l *lists) latest(s source) content { return l.windows[s][len(l.windows[s])-1] }

func (l *lists) now() content { return l.read[len(l.read)-1] }

// counting is which of three lists counts.
func counting(lists [sources]content) (c content) {
	for s, list := range lists {
		if list.kind != absent {
			list.from = source(s)
			return list
		}
	}
	return content{}
}

// combined is what may count: sources are read one after the other, so any of their values may meet.
func combined(windows [sources][]content) (all []content) {
	for _, d := range windows[inDom0] {
		for _, f := range windows[inFiles] {
			for _, s := range windows[inFirewall] {
				if c := counting([sources]content{d, f, s}); !slices.Contains(all, c) {
					all = append(all, c)
				}
			}
		}
	}
	return all
}

func (l *lists) weigh() {
	now := counting([sources]content{l.latest(inDom0), l.latest(inFiles), l.latest(inFirewall)})
	l.read = slices.DeleteFunc(combined(l.windows), func(c content) bool { return c == now })
	l.read = append(l.read, now)
}

// settle notes that everybody knows what there is now.
func (l *lists) settle() {
	for s := range l.windows {
		l.windows[s] = []content{l.latest(source(s))}
	}
	l.weigh()
}

// setList is a change of one source that is seen whole or not at all.
func (m *model) setList(vm *appVM, s source, c content) {
	next := vm.windows
	next[s] = []content{c}
	for _, list := range combined(next) {
		switch {
		case list.kind == absent:
			vm.cut()
		case list.from < s: // what has changed does not count
		case list.kind == good && !m.goesOn(vm, list):
			vm.disturbed = true
		}
	}
	if m.down {
		vm.windows[s] = nil // nobody has read what was there before
	}
	vm.windows[s] = append(slices.DeleteFunc(slices.Clone(vm.windows[s]), func(old content) bool { return old == c }), c)
	vm.weigh()
	m.mayForget(vm)
}

// goesOn tells whether connections go on when a list is in force: more is permitted then, and nothing less. A list that is refused
// changes nothing.
func (m *model) goesOn(vm *appVM, list content) bool {
	if len(m.template) > 1 {
		return false
	}
	t := m.template[0]
	inForce := !slices.ContainsFunc(vm.read, func(old content) bool { return old.kind == good && !m.mayFit(old, t) })
	return t.kind == good && !m.mayFit(list, t) || inForce && list.alike(vm.read) && m.adds(vm, list.under(t).permits)
}

// alike tells whether a list has the source and the directives of all others. Connections go on by what the lines say, and not by
// what they match, so a change of format ends them; and so may what they open.
func (c content) alike(others []content) bool {
	return !slices.ContainsFunc(others, func(o content) bool { return o.kind != good || o.from != c.from || o.head() != c.head() })
}

// only is the one list of a source.
func only(lists map[string]content) (c content) {
	if len(lists) > 1 {
		return content{kind: misread} // for one address: both are refused
	}
	for _, c = range lists {
	}
	return c
}

// setFiles is a change of an AppVM's rule files that is seen whole or not at all.
func (m *model) setFiles(vm *appVM, change func(map[string]content)) {
	change(vm.files)
	for _, shared := range m.shared { // files are read one after the other
		m.setList(vm, inFiles, only(vm.files).with(shared))
	}
}

// setFile is such a change of one file; kind absent takes it away.
func (m *model) setFile(vm *appVM, name string, c content) {
	m.setFiles(vm, func(files map[string]content) {
		if files[name] = c; c.kind == absent {
			delete(files, name)
		}
	})
}

// setFeature is such a change of a feature.
func (m *model) setFeature(vm *appVM, name string, c content) {
	if vm.features[name] = c; c.kind == absent {
		delete(vm.features, name)
	}
	m.setList(vm, inDom0, only(vm.features))
}

// setHalf notes that dom0 writes firewall settings, and what there is of them if nothing tells that they are not complete. Watched
// is whether somebody surely sees the writing.
func (m *model) setHalf(vm *appVM, half content, watched bool) {
	vm.half = &half
	m.setList(vm, inFirewall, content{kind: misread})
	if !watched {
		m.halfMayCount()
	}
}

// halfMayCount notes that the daemon may begin to watch while settings are half there. Then nothing tells that they are.
func (m *model) halfMayCount() {
	for _, vm := range m.vms {
		if vm.half != nil {
			vm.cut()
			vm.windows[inFirewall] = slices.Insert(vm.windows[inFirewall], 0, *vm.half)
			vm.weigh()
		}
	}
}

// shown is the name of an AppVM in `show`: that of the list that counts; "" if there is none.
func (vm *appVM) shown() string {
	if vm.now().kind == absent {
		return ""
	}
	files := vm.files
	switch vm.now().from {
	case inDom0:
		files = vm.features
	case inFirewall:
		return "vm-" + vm.ip.String()
	}
	return strings.TrimSuffix(slices.Min(slices.Collect(maps.Keys(files))), "."+vm.ip.String())
}
