package main

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"vifproxy/internal/simulate/model"
)

// This file is what dom0 does in the chaos run, and what becomes of the daemon of QubesDB that tells of it.

// decisions is what the actions have done to QubesDB.
type decisions struct {
	watched bool                // vifproxyd surely sees all that dom0 writes
	rest    map[*appVM][]string // of firewall settings that are half written
	garbage []string            // paths
}

const (
	featuresAt = "/vm-config/vifproxy."
	settingsAt = "/qubes-firewall/"
)

// rewrite changes the list that counts, in its own form.
func (c *chaos) rewrite(vm *appVM, lines hosts) string {
	now := vm.Now()
	switch {
	case now.Kind == good && now.From == model.InDom0:
		return c.setFeature(vm, vm.Shown(), like(now, lines))
	case now.Kind == good && now.From == model.InFirewall:
		return c.setSettings(vm, like(now, lines))
	}
	return c.write(vm, c.name(vm), like(now, lines))
}

// setFeature gives an AppVM a list in dom0; kind absent takes it away.
func (c *chaos) setFeature(vm *appVM, name string, text content) string {
	c.court.change(func(m *model.Model) { m.SetFeature(vm, file(vm, name), text) })
	path := featuresAt + file(vm, name)
	switch text.Kind {
	case absent:
		c.db.Remove(path)
	case good:
		c.db.Write(path, words(text))
	default:
		c.db.Write(path, text.Text)
	}
	return fmt.Sprintf("%s in dom0 %v", name, text.Lines)
}

// words is a good list as the value of a feature.
func words(list content) string {
	var words []string
	if strings.Contains(headOf(list), ofNetwork) {
		words = append(words, strings.Replace(strings.TrimPrefix(ofNetwork, "#: "), " ", "=", 1))
	}
	for i, name := range universe {
		if list.Lines.Has(i) {
			words = append(words, name)
		}
	}
	return strings.Join(words, "  ")
}

// someFeature is a list of dom0, or one for firewall settings: names, and now and then a network.
func (c *chaos) someFeature() content {
	head := ofDomains + "\n"
	if c.rng.IntN(3) == 0 {
		head += ofNetwork + "\n"
	}
	return rulesFor(hosts(c.rng.UintN(1<<16))&listable, head)
}

func (c *chaos) editFeature() string {
	vm := c.one()
	return c.setFeature(vm, c.names[vm], c.someFeature())
}

func (c *chaos) removeFeature() (what string) {
	vm := c.one()
	for _, name := range c.namesOf(vm) {
		if vm.Features[file(vm, name)].Kind != absent {
			what += " " + c.setFeature(vm, name, content{})
		}
	}
	return c.names[vm] + what
}

// badFeature sets one that cannot be used, or a second one for the same address.
func (c *chaos) badFeature() string {
	vm := c.one()
	bad := []string{"https://a.example/", "a.example#b", "egress=of-nobody", "format=patterns a.example", "a.example \x1b[2J.example", ""}[c.rng.IntN(6)]
	if bad == "" {
		c.setFeature(vm, c.names[vm], c.someFeature())
		return c.setFeature(vm, "z"+c.names[vm], c.someFeature())
	}
	if second := "z" + c.names[vm]; vm.Features[file(vm, second)].Kind != absent {
		c.setFeature(vm, second, content{})
	}
	return fmt.Sprintf("%q %s", bad, c.setFeature(vm, c.names[vm], content{Kind: misread, Text: bad}))
}

// setSettings writes the firewall settings of an AppVM as dom0 does; kind absent are those that name no host.
func (c *chaos) setSettings(vm *appVM, list content) string {
	if list.Lines == 0 && list.Kind == good {
		list = content{}
	}
	delete(c.dom0.rest, vm)
	c.court.change(func(m *model.Model) {
		m.SetSettings(vm, list)
	})
	rules := []string{"action=accept"}
	switch list.Kind {
	case good:
		rules = slices.Concat(settingsOf(list)...)
	case misread:
		rules = []string{list.Text}
	}
	c.db.Firewall(vm.IP.String(), "drop", append(rules, "action=drop")...)
	return fmt.Sprintf("settings of %s %v", c.names[vm], list.Lines)
}

// settingsOf is the firewall rules of a list, for one host after the other.
func settingsOf(list content) [][]string {
	all := [][]string{{"action=accept specialtarget=dns", "action=accept proto=icmp"}}
	if strings.Contains(headOf(list), ofNetwork) {
		all = append(all, []string{"action=accept dst4=10.136.0.0/14"})
	}
	for i, name := range universe {
		rule := "action=accept dsthost=" + name
		switch {
		case !list.Lines.Has(i):
		case i%2 == 0:
			all = append(all, []string{rule})
		default:
			all = append(all, []string{rule + " proto=tcp dstports=80-80", rule + " proto=tcp dstports=443-443"})
		}
	}
	return all
}

func (c *chaos) editSettings() string { return c.setSettings(c.one(), c.someFeature()) }

func (c *chaos) removeSettings() string { return c.setSettings(c.one(), content{}) }

// onlySettings leaves an AppVM no other list than its firewall settings.
func (c *chaos) onlySettings(vm *appVM) string {
	what := c.setSettings(vm, c.someFeature())
	for _, name := range c.namesOf(vm) {
		if vm.Features[file(vm, name)].Kind != absent {
			c.setFeature(vm, name, content{})
		}
		if vm.Files[file(vm, name)].Kind != absent {
			c.court.change(func(m *model.Model) { m.SetFile(vm, file(vm, name), content{}) })
			c.removeRules(file(vm, name))
		}
	}
	return what
}

func (c *chaos) badSettings() string {
	bad := []string{"action=maybe dsthost=a.example", "action=accept dsthost=a.example dstports=99-1", "action=accept dsthost=a.example later=1",
		"action=accept dsthost=a.example dst4=x", "action=drop dsthost=a.example", "action=accept dsthost=a_b..c"}[c.rng.IntN(6)]
	return bad + " " + c.setSettings(c.one(), content{Kind: misread, Text: bad})
}

// halfSettings begins to write firewall settings, and may leave it at that until all is mended.
func (c *chaos) halfSettings() string {
	vm := c.one()
	list := c.someFeature()
	list.Lines |= 1
	groups := settingsOf(list)
	cut := c.rng.IntN(len(groups) + 1)
	written := slices.Concat(groups[:cut]...)
	half := content{}
	for i, name := range universe {
		if slices.ContainsFunc(written, func(rule string) bool { return strings.Contains(rule, "dsthost="+name) }) {
			half.Kind, half.Lines = good, half.Lines|1<<i
		}
	}
	half.Text = headOf(list)
	if half.Kind == absent {
		half.Text = ""
	}
	c.court.change(func(m *model.Model) { m.SetHalf(vm, half, c.dom0.watched) })
	base := settingsAt + vm.IP.String()
	c.db.Remove(base + "/")
	c.db.Write(base+"/policy", "drop")
	for i, rule := range written {
		c.db.Write(fmt.Sprintf("%s/%04d", base, i), rule)
	}
	if c.dom0.rest == nil {
		c.dom0.rest = map[*appVM][]string{}
	}
	c.dom0.rest[vm] = slices.Concat(groups...)
	c.moment()
	if c.rng.IntN(2) == 0 {
		return fmt.Sprintf("%s stays at %v", c.names[vm], half.Lines)
	}
	return c.complete(vm)
}

// complete finishes what halfSettings has begun.
func (c *chaos) complete(vm *appVM) string {
	list := rulesFor(0, ofDomains+"\n")
	for _, rule := range c.dom0.rest[vm] {
		if strings.Contains(rule, "dst4=") {
			list.Text = ofDomains + "\n" + ofNetwork + "\n"
		}
	}
	for i, name := range universe {
		if slices.ContainsFunc(c.dom0.rest[vm], func(rule string) bool { return strings.Contains(rule, "dsthost="+name) }) {
			list.Lines |= 1 << i
		}
	}
	list = like(list, list.Lines)
	c.court.change(func(m *model.Model) {
		m.SetSettings(vm, list)
	})
	base := settingsAt + vm.IP.String()
	for i, rule := range c.dom0.rest[vm] {
		c.db.Write(fmt.Sprintf("%s/%04d", base, i), rule)
	}
	c.db.Write(base, "")
	delete(c.dom0.rest, vm)
	return fmt.Sprintf("%s is complete %v", c.names[vm], list.Lines)
}

// garbage puts into QubesDB what is no AppVM's. Nobody is disturbed.
func (c *chaos) garbage() string {
	path := []string{featuresAt, featuresAt + "nobody", featuresAt + "x.10.137.0", settingsAt + "garbage/0000", settingsAt + "10.137.0.300/0000",
		settingsAt + "fd09:24ef:4179::a89:b/0000", settingsAt + "/0000"}[c.rng.IntN(7)]
	c.dom0.garbage = append(c.dom0.garbage, path)
	c.db.Write(path, "action=accept dsthost=never.example never.example")
	return path
}

// breakDB notes that the daemon may lose what it knows of QubesDB, and needs a while to know it again.
func (c *chaos) breakDB() {
	c.late, c.dom0.watched = true, false
	c.court.change(func(m *model.Model) { m.Unwatched() })
}

func (c *chaos) restartDB() string {
	c.breakDB()
	if c.rng.IntN(2) == 0 {
		c.db.Stop()
		c.moment()
	}
	c.db.Restart(c.T)
	return ""
}

// silentDB has QubesDB answer nothing for a moment, or until all is mended.
func (c *chaos) silentDB() string {
	c.breakDB()
	c.db.Silence(true)
	if c.rng.IntN(2) == 0 {
		return "from now on"
	}
	c.moment()
	c.db.Silence(false)
	return "for a moment"
}

// nonsenseDB has the next answer be what qubesdb-daemon never says.
func (c *chaos) nonsenseDB() string {
	c.breakDB()
	header := func(kind byte, path string, size uint32) []byte {
		h := make([]byte, 72)
		h[0] = kind
		copy(h[1:65], path)
		binary.NativeEndian.PutUint32(h[68:], size)
		return h
	}
	nonsense := [][]byte{
		header(0, "", 0), header(255, settingsAt, 0), header(11, "/etc/passwd", 0), header(11, featuresAt+"x", 1<<31), header(9, "", 0),
		header(11, strings.Repeat("/", 64), 0), []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
	}[c.rng.IntN(7)]
	c.db.Nonsense(nonsense)
	return fmt.Sprintf("%.10q", nonsense)
}

// mendDom0 has QubesDB answer, and all that dom0 writes be complete.
func (c *chaos) mendDom0() {
	c.db.Nonsense(nil)
	c.db.Silence(false)
	for _, vm := range c.court.VMs {
		if c.dom0.rest[vm] != nil {
			c.complete(vm)
		}
	}
	for _, path := range c.dom0.garbage {
		c.db.Remove(path)
	}
	c.dom0.garbage = nil
}

// withoutDom0 takes all lists of dom0 away.
func (c *chaos) withoutDom0() {
	for _, vm := range c.court.VMs {
		for _, name := range c.namesOf(vm) {
			if vm.Features[file(vm, name)].Kind != absent {
				c.setFeature(vm, name, content{})
			}
		}
		c.setSettings(vm, content{})
	}
}
