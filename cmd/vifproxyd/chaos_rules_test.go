package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// This file is what happens to the rule directory in the chaos run.

// namesOf are the names that an AppVM may have in the rule directory.
func (c *chaos) namesOf(vm *appVM) []string {
	name := c.names[vm]
	return []string{name, name + "-b", "z" + name, "vm-" + vm.ip.String()}
}

// name is the one it has: with the first of its files.
func (c *chaos) name(vm *appVM) string {
	if len(vm.files) == 0 {
		return c.names[vm]
	}
	names := c.namesOf(vm)
	return names[slices.IndexFunc(names, func(n string) bool { return vm.files[file(vm, n)].kind != absent })]
}

func file(vm *appVM, name string) string { return name + "." + vm.ip.String() }

// someRules is a rule file whose lines match the given hosts.
func (c *chaos) someRules(lines hosts) content {
	head := ""
	if c.rng.IntN(3) == 0 {
		head += ofDomains + "\n"
	}
	if c.rng.IntN(3) == 0 {
		head += ofNetwork + "\n"
	}
	return rulesFor(lines, head)
}

// like is a rule file in the format of another one: only then the lines for the same hosts are the same.
func (c content) like(lines hosts) content {
	return rulesFor(lines, c.head())
}

const (
	ofDomains = "#: format domains"
	// ofNetwork opens where AppVMs and gateways have their addresses: a network never leads to these.
	ofNetwork = "#: egress 10.136.0.0/14"
)

func rulesFor(lines hosts, head string) content {
	text := head + "# somebody wrote this\n\n"
	form := func(name string) string { return "^" + strings.ReplaceAll(name, ".", `\.`) + "$\n" }
	if strings.Contains(head, ofDomains) {
		form = func(name string) string { return name + " # a name\n" }
	}
	for i, name := range universe {
		if lines.has(i) {
			text += form(name)
		}
	}
	return content{kind: good, lines: lines, text: text}
}

// readRules is which hosts the staged form of such rules matches.
func readRules(text string) (lines hosts) {
	for i, name := range universe {
		if strings.Contains(text, "^"+strings.ReplaceAll(name, ".", `\.`)) {
			lines |= 1 << i
		}
	}
	return lines
}

func (c *chaos) write(vm *appVM, name string, text content) string {
	c.court.change(func(m *model) { m.setFile(vm, file(vm, name), text) })
	c.rules(file(vm, name), text.text)
	return fmt.Sprintf("%s %v", name, text.lines)
}

func (c *chaos) edit() string {
	vm := c.one()
	return c.write(vm, c.name(vm), c.someRules(hosts(c.rng.UintN(1<<16))&listable))
}

// addHost takes nothing away from what is permitted.
func (c *chaos) addHost() string {
	vm := c.one()
	lines, host := vm.now().lines, hosts(1)<<c.rng.IntN(len(universe)-1)
	if c.court.template[len(c.court.template)-1].open {
		return c.rewrite(vm, lines&^host)
	}
	return c.rewrite(vm, lines|host)
}

// flipTunnels permits the host of the tunnels, or forbids it, with one line more or less and nothing else. By a tunnel
// a process is found out that lives on although it permits what is not permitted any more; so this is what happens
// last before all is settled, when the model knows best.
func (c *chaos) flipTunnels() (what string) {
	for _, vm := range c.court.vms {
		if now := vm.now(); len(vm.vifs) > 0 && now.kind == good {
			what += " " + c.rewrite(vm, now.lines^1<<echoHost)
		}
	}
	return what
}

func (c *chaos) badEdit() string {
	vm := c.one()
	bad := []content{
		{kind: misread, text: `^a\.example $`},
		{kind: misread, text: "#: egress of nobody"},
		{kind: misread, text: strings.Repeat("x", 600)},
		{kind: misread, text: "^b\\.example$\x00"},
		{kind: misread, text: ofDomains + "\nhttp://a.example/"},
	}[c.rng.IntN(5)]
	c.write(vm, c.name(vm), bad)
	return fmt.Sprintf("%s %.20q", c.name(vm), bad.text)
}

// writeInPlace is what a bad editor does: for a moment the file is empty.
func (c *chaos) writeInPlace() string {
	vm := c.one()
	name, text := c.name(vm), c.someRules(hosts(c.rng.UintN(1<<16))&listable)
	c.court.change(func(m *model) {
		m.setFile(vm, file(vm, name), content{kind: good})
		m.setFile(vm, file(vm, name), text)
	})
	c.must(writeFile(filepath.Join(c.rulesDir(), file(vm, name)), []byte(text.text), 0o644))
	return fmt.Sprintf("%s %v", name, text.lines)
}

// writeSlowly has a file open for writing for a while. Its text would permit everything meanwhile.
func (c *chaos) writeSlowly() string {
	vm := c.one()
	name, text := c.name(vm), c.someRules(hosts(c.rng.UintN(1<<16))&listable)
	c.court.change(func(m *model) { m.setFile(vm, file(vm, name), content{kind: misread}) })
	f, err := os.Create(filepath.Join(c.rulesDir(), file(vm, name)))
	c.must(err)
	_, err = f.WriteString("^[a-z.]*$\n")
	c.must(err)
	c.moment()
	c.must(f.Truncate(0))
	_, err = f.WriteAt([]byte(text.text), 0)
	c.must(err)
	c.court.change(func(m *model) { m.setFile(vm, file(vm, name), text) })
	c.must(f.Close())
	return fmt.Sprintf("%s %v", name, text.lines)
}

// link has a rule file lead to one in another directory, and changes that one.
func (c *chaos) link() string {
	vm := c.one()
	name := c.name(vm)
	lists := filepath.Join(c.dir, "lists")
	c.must(os.MkdirAll(lists, 0o755))
	target := filepath.Join(lists, file(vm, name))
	replace := func(text content) {
		c.court.change(func(m *model) { m.setFile(vm, file(vm, name), text) })
		c.must(writeFile(target+".new", []byte(text.text), 0o644))
	}
	// That it leads to what an earlier link did is none of the changes that the model knows.
	target += fmt.Sprint(c.rng.IntN(1e9))
	replace(c.someRules(hosts(c.rng.UintN(1<<16)) & listable))
	c.must(os.Rename(target+".new", target))
	aside := filepath.Join(c.rulesDir(), ".link")
	c.must(os.Symlink(target, aside))
	c.must(os.Rename(aside, filepath.Join(c.rulesDir(), file(vm, name))))
	c.moment()
	text := c.someRules(hosts(c.rng.UintN(1<<16)) & listable)
	replace(text)
	c.must(os.Rename(target+".new", target))
	return fmt.Sprintf("%s %v", name, text.lines)
}

func (c *chaos) removeOne() string {
	vm := c.one()
	name := file(vm, c.name(vm))
	if vm.files[name].kind == absent {
		return c.names[vm] + " has no file"
	}
	c.court.change(func(m *model) { m.setFile(vm, name, content{}) })
	c.removeRules(name)
	return name
}

func (c *chaos) rename() string {
	vm := c.one()
	from := file(vm, c.name(vm))
	to := file(vm, c.namesOf(vm)[c.rng.IntN(2)])
	text, ok := vm.files[from]
	if !ok || vm.files[to].kind != absent {
		return c.names[vm] + " cannot be renamed"
	}
	c.court.change(func(m *model) {
		m.setFiles(vm, func(files map[string]content) {
			delete(files, from)
			files[to] = text
		})
	})
	c.must(os.Rename(filepath.Join(c.rulesDir(), from), filepath.Join(c.rulesDir(), to)))
	return from + " to " + to
}

// sameAddress brings, or takes away, a second file for an AppVM's address.
func (c *chaos) sameAddress() string {
	vm := c.one()
	name := "z" + c.names[vm]
	if vm.files[file(vm, name)].kind == absent {
		return c.write(vm, name, c.someRules(hosts(c.rng.UintN(1<<16))&listable))
	}
	c.court.change(func(m *model) { m.setFile(vm, file(vm, name), content{}) })
	c.removeRules(file(vm, name))
	return "without " + name
}

func (c *chaos) setTemplate(t content) {
	c.court.change(func(m *model) { m.setTemplate(t) })
	if t.text == "" {
		if err := os.Remove(filepath.Join(c.rulesDir(), "config")); !errors.Is(err, os.ErrNotExist) {
			c.must(err)
		}
		return
	}
	c.rules("config", t.text)
}

// someTemplate is one that is good: none, one with default deny, or one with default allow.
func (c *chaos) someTemplate() content {
	n := c.rng.IntN(6)
	t := content{kind: good, open: n >= 3 && !c.court.under || n == 5} // with a ceiling default allow is refused
	if n > 0 {
		t.text = strings.ReplaceAll(c.builtin(), "MaxClients 100", fmt.Sprintf("MaxClients %d", 100+n))
	}
	if t.open {
		t.text = strings.ReplaceAll(t.text, defaultDeny, "FilterDefaultDeny No\n")
	}
	return t
}

const defaultDeny = "FilterDefaultDeny Yes\n"

func (c *chaos) editTemplate() string {
	t := c.someTemplate()
	c.setTemplate(t)
	return map[bool]string{true: "default allow", false: "default deny"}[t.open]
}

func (c *chaos) badTemplate() string {
	t := []content{
		{kind: misread, text: c.builtin() + "Timeout {tiem}\n"},
		{kind: misread, text: strings.ReplaceAll(c.builtin(), "Port {port}", "Port 8888")},
		{kind: misrun, text: c.builtin() + "Nonsense Yes\n"},
	}[c.rng.IntN(3)]
	c.setTemplate(t)
	return fmt.Sprint(t.kind)
}

// writeTemplateSlowly has the template open for writing for a while. Its text would permit everything meanwhile.
func (c *chaos) writeTemplateSlowly() string {
	t := c.someTemplate()
	if t.text == "" {
		t.text = c.builtin()
	}
	c.court.change(func(m *model) { m.setTemplate(content{kind: misread}) })
	f, err := os.Create(filepath.Join(c.rulesDir(), "config"))
	c.must(err)
	half, _, _ := strings.Cut(c.builtin(), defaultDeny)
	_, err = f.WriteString(half + "FilterDefaultDeny No\n")
	c.must(err)
	c.moment()
	c.must(f.Truncate(0))
	_, err = f.WriteAt([]byte(t.text), 0)
	c.must(err)
	c.court.change(func(m *model) { m.setTemplate(t) })
	c.must(f.Close())
	return map[bool]string{true: "default allow", false: "default deny"}[t.open]
}

// builtin is the built-in template's text.
func (c *chaos) builtin() string {
	text, err := os.ReadFile("../../rules/builtin.conf")
	c.must(err)
	return string(text)
}

// replaceDirectory puts a copy in the place of the rule directory, in one step.
func (c *chaos) replaceDirectory() string {
	copied := c.rulesDir() + ".new"
	c.must(os.CopyFS(copied, os.DirFS(c.rulesDir())))
	c.must(unix.Renameat2(unix.AT_FDCWD, copied, unix.AT_FDCWD, c.rulesDir(), unix.RENAME_EXCHANGE))
	c.must(os.RemoveAll(copied))
	return ""
}

// directoryAway takes the rule directory away for a moment: then there are no rules.
func (c *chaos) directoryAway() string {
	c.court.change(func(m *model) { m.gap() })
	c.must(os.Rename(c.rulesDir(), c.rulesDir()+".away"))
	c.moment()
	c.must(os.Rename(c.rulesDir()+".away", c.rulesDir()))
	return ""
}

// directoryUnreadable puts something in its place that is no directory: nothing is known then, and nobody is
// disturbed.
func (c *chaos) directoryUnreadable() string {
	aside, what := c.rulesDir()+".aside", "a dangling link"
	if c.rng.IntN(2) == 0 {
		c.must(os.Symlink("nowhere", aside))
	} else {
		what = "a file"
		c.must(writeFile(aside, nil, 0o644))
	}
	swap := func() {
		c.must(unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, c.rulesDir(), unix.RENAME_EXCHANGE))
	}
	swap()
	c.moment()
	swap()
	c.must(os.Remove(aside))
	return what
}

// moment lets some time pass: more than the daemon waits for the end of a burst of changes, or less.
func (c *chaos) moment() {
	select {
	case <-time.After(time.Duration([]int{1, 10, 50, 150}[c.rng.IntN(4)]) * time.Millisecond):
	case <-c.Context().Done():
	}
}

// mend makes all rule files and the template good.
func (c *chaos) mend() {
	c.removeUnlisted()
	c.withoutDom0()
	c.editShared()
	c.setCeiling(rulesFor(listable, ceilingHead))
	t := c.someTemplate()
	for t.open && c.court.under { // that is refused
		t = c.someTemplate()
	}
	c.setTemplate(t)
	for _, vm := range c.court.vms[:len(c.court.vms)-1] {
		name := "z" + c.names[vm]
		if vm.files[file(vm, name)].kind != absent {
			c.court.change(func(m *model) { m.setFile(vm, file(vm, name), content{}) })
			c.removeRules(file(vm, name))
		}
		c.write(vm, c.name(vm), c.someRules(hosts(c.rng.UintN(1<<16))&listable))
	}
}
