package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// This file is the ceiling in the chaos run: what it may say, what the model expects of it, and what becomes of its file. Two of three
// daemons have none.

// ceilings is what the model knows of the ceiling.
type ceilings struct {
	under   bool      // this daemon has one
	ceiling []content // as model.template; kind misread if it cannot be read
	kept    hosts     // what ceilings admit that the daemon may have read last
}

// fits tells whether a list is put in force with a template by a ceiling.
func (m *model) fits(list, template, ceiling content) bool {
	if list.kind != good || template.kind != good || list.clashes(template) {
		return false
	}
	return !m.under || ceiling.kind == good && !template.open && list.lines&^ceiling.lines == 0
}

// mayFit tells whether a list may be put in force with a template.
func (m *model) mayFit(list, template content) bool {
	return slices.ContainsFunc(m.ceiling, func(c content) bool { return m.fits(list, template, c) })
}

func (m *model) latestCeiling() content { return m.ceiling[len(m.ceiling)-1] }

// below is what is left of a policy below a ceiling.
func (p policy) below(ceiling content) policy {
	if p != nothing && ceiling.kind == good {
		p.permits &= ceiling.lines
	}
	return p
}

// lower adds what is left of policies below any ceiling that may have been read, in whatever order.
func (m *model) lower(all map[policy]bool) {
	if !m.under {
		return
	}
	for range m.ceiling {
		for p := range all {
			for _, c := range m.ceiling {
				all[p.below(c)] = true
			}
		}
	}
}

// most is what a lesson may permit.
func (m *model) most() hosts {
	if m.under {
		return m.kept
	}
	return everything
}

// setCeiling is a change of the ceiling that is seen whole or not at all.
func (m *model) setCeiling(ceiling content) {
	for _, vm := range m.vms {
		for p := range m.possible(vm) {
			vm.disturbed = vm.disturbed || m.under && p.below(ceiling) != p
		}
		for _, t := range m.template {
			for _, list := range vm.read {
				was := !slices.ContainsFunc(m.ceiling, func(c content) bool { return !m.fits(list, t, c) })
				vm.disturbed = vm.disturbed || m.under && m.fits(list, t, ceiling) && !(was && m.goesOn(vm, list))
			}
		}
		if m.under && vm.held[true] { // its last good policy may be forgotten
			vm.goods[nothing] = true
		}
	}
	if m.down {
		m.ceiling = nil
	}
	m.ceiling = append(slices.DeleteFunc(slices.Clone(m.ceiling), func(c content) bool { return c == ceiling }), ceiling)
	if ceiling.kind == good {
		m.kept |= ceiling.lines
	}
}

// starts notes that a daemon begins, with a ceiling or without.
func (m *model) starts(under bool) {
	m.under = under
	m.settleCeiling()
	if m.latestCeiling().kind != good {
		m.kept = 0 // it admits nothing before it was read
	}
}

// settleCeiling notes that the daemon has read the ceiling as it is now.
func (m *model) settleCeiling() {
	m.ceiling = []content{m.latestCeiling()}
	if now := m.ceiling[0]; now.kind == good {
		m.kept = now.lines
	}
}

func (c *chaos) ceilingPath() string { return filepath.Join(c.dir, "ceiling") }

// ceilingHead is what a ceiling needs for the lists of the run: firewall settings open port 80 to tunnels, too.
const ceilingHead = ofDomains + "\n" + ofNetwork + "\n#: port 80\n"

// someCeiling is one that is good. Most hosts are below it.
func (c *chaos) someCeiling() content {
	lines := listable
	for range c.rng.IntN(2) {
		lines &^= 1 << c.rng.IntN(len(universe)-1)
	}
	return rulesFor(lines, ceilingHead)
}

// setCeiling writes the ceiling as an editor does.
func (c *chaos) setCeiling(text content) string {
	c.court.change(func(m *model) { m.setCeiling(text) })
	c.ceiling(text.text)
	return fmt.Sprint(text.lines)
}

func (c *chaos) editCeiling() string { return c.setCeiling(c.someCeiling()) }

// badCeiling has one that cannot be read, or none.
func (c *chaos) badCeiling() string {
	n := c.rng.IntN(4)
	if n > 0 {
		c.setCeiling(content{kind: misread, text: []string{"", ofDomains + "\n*.example\na example\n", "^.*$\n\x00", "#: include common\n"}[n]})
		return fmt.Sprint("bad ", n)
	}
	c.court.change(func(m *model) { m.setCeiling(content{kind: misread}) })
	if err := os.Remove(c.ceilingPath()); !os.IsNotExist(err) {
		c.must(err)
	}
	return "none"
}

// writeCeilingSlowly has the ceiling open for writing for a while. Its text would admit everything meanwhile.
func (c *chaos) writeCeilingSlowly() string {
	text := c.someCeiling()
	c.court.change(func(m *model) { m.setCeiling(content{kind: misread}) })
	f, err := os.Create(c.ceilingPath())
	c.must(err)
	_, err = f.WriteString(ceilingHead + "*.example\n")
	c.must(err)
	c.moment()
	c.must(f.Truncate(0))
	_, err = f.WriteAt([]byte(text.text), 0)
	c.must(err)
	c.court.change(func(m *model) { m.setCeiling(text) })
	c.must(f.Close())
	return fmt.Sprint(text.lines)
}
