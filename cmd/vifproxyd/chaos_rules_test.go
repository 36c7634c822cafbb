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

	"vifproxy/internal/simulate/model"
)

// This file is what happens to the rule directory in the chaos run.

// namesOf are the names that an AppVM may have in the rule directory.
func (c *chaos) namesOf(vm *appVM) []string {
	name := c.names[vm]
	return []string{name, name + "-b", "z" + name, "vm-" + vm.IP.String()}
}

// name is the one it has: with the first of its files.
func (c *chaos) name(vm *appVM) string {
	if len(vm.Files) == 0 {
		return c.names[vm]
	}
	names := c.namesOf(vm)
	return names[slices.IndexFunc(names, func(n string) bool { return vm.Files[file(vm, n)].Kind != absent })]
}

func file(vm *appVM, name string) string { return name + "." + vm.IP.String() }

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

// like is a list in the format of another one: only then the lines for the same hosts are the same.
func like(c content, lines hosts) content {
	return rulesFor(lines, headOf(c))
}

// headOf returns the directives of a list that are good.
func headOf(c content) (head string) {
	for line := range strings.Lines(c.Text) {
		if line = strings.TrimSpace(line); line == ofDomains || line == ofNetwork {
			head += line + "\n"
		}
	}
	return head
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
		if lines.Has(i) {
			text += form(name)
		}
	}
	return content{Kind: good, Lines: lines, Text: text}
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
	c.court.change(func(m *model.Model) { m.SetFile(vm, file(vm, name), text) })
	c.rules(file(vm, name), text.Text)
	return fmt.Sprintf("%s %v", name, text.Lines)
}

func (c *chaos) edit() string {
	vm := c.one()
	return c.write(vm, c.name(vm), c.someRules(hosts(c.rng.UintN(1<<16))&listable))
}

// addHost takes nothing away from what is permitted.
func (c *chaos) addHost() string {
	vm := c.one()
	lines, host := vm.Now().Lines, hosts(1)<<c.rng.IntN(len(universe)-1)
	if c.court.Template().Open {
		return c.rewrite(vm, lines&^host)
	}
	return c.rewrite(vm, lines|host)
}

// flipTunnels permits the host of the tunnels, or forbids it, with one line more or less and nothing else. By a tunnel
// a process is found out that lives on although it permits what is not permitted any more; so this is what happens
// last before all is settled, when the model knows best.
func (c *chaos) flipTunnels() (what string) {
	for _, vm := range c.court.VMs {
		if now := vm.Now(); len(vm.Vifs) > 0 && now.Kind == good {
			what += " " + c.rewrite(vm, now.Lines^1<<echoHost)
		}
	}
	return what
}

func (c *chaos) badEdit() string {
	vm := c.one()
	bad := []content{
		{Kind: misread, Text: `^a\.example $`},
		{Kind: misread, Text: "#: egress of nobody"},
		{Kind: misread, Text: strings.Repeat("x", 600)},
		{Kind: misread, Text: "^b\\.example$\x00"},
		{Kind: misread, Text: ofDomains + "\nhttp://a.example/"},
	}[c.rng.IntN(5)]
	c.write(vm, c.name(vm), bad)
	return fmt.Sprintf("%s %.20q", c.name(vm), bad.Text)
}

// writeInPlace is what a bad editor does: for a moment the file is empty.
func (c *chaos) writeInPlace() string {
	vm := c.one()
	name, text := c.name(vm), c.someRules(hosts(c.rng.UintN(1<<16))&listable)
	c.court.change(func(m *model.Model) {
		m.SetFile(vm, file(vm, name), content{Kind: good})
		m.SetFile(vm, file(vm, name), text)
	})
	c.must(writeFile(filepath.Join(c.rulesDir(), file(vm, name)), []byte(text.Text), 0o644))
	return fmt.Sprintf("%s %v", name, text.Lines)
}

// writeSlowly has a file open for writing for a while. Its text would permit everything meanwhile.
func (c *chaos) writeSlowly() string {
	vm := c.one()
	name, text := c.name(vm), c.someRules(hosts(c.rng.UintN(1<<16))&listable)
	c.court.change(func(m *model.Model) { m.SetFile(vm, file(vm, name), content{Kind: misread}) })
	f, err := os.Create(filepath.Join(c.rulesDir(), file(vm, name)))
	c.must(err)
	_, err = f.WriteString("^[a-z.]*$\n")
	c.must(err)
	c.moment()
	c.must(f.Truncate(0))
	_, err = f.WriteAt([]byte(text.Text), 0)
	c.must(err)
	c.court.change(func(m *model.Model) { m.SetFile(vm, file(vm, name), text) })
	c.must(f.Close())
	return fmt.Sprintf("%s %v", name, text.Lines)
}

// link has a rule file lead to one in another directory, and changes that one.
func (c *chaos) link() string {
	vm := c.one()
	name := c.name(vm)
	lists := filepath.Join(c.dir, "lists")
	c.must(os.MkdirAll(lists, 0o755))
	target := filepath.Join(lists, file(vm, name))
	replace := func(text content) {
		c.court.change(func(m *model.Model) { m.SetFile(vm, file(vm, name), text) })
		c.must(writeFile(target+".new", []byte(text.Text), 0o644))
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
	return fmt.Sprintf("%s %v", name, text.Lines)
}

func (c *chaos) removeOne() string {
	vm := c.one()
	name := file(vm, c.name(vm))
	if vm.Files[name].Kind == absent {
		return c.names[vm] + " has no file"
	}
	c.court.change(func(m *model.Model) { m.SetFile(vm, name, content{}) })
	c.removeRules(name)
	return name
}

func (c *chaos) rename() string {
	vm := c.one()
	from := file(vm, c.name(vm))
	to := file(vm, c.namesOf(vm)[c.rng.IntN(2)])
	if vm.Files[from].Kind == absent || vm.Files[to].Kind != absent {
		return c.names[vm] + " cannot be renamed"
	}
	c.court.change(func(m *model.Model) { m.Rename(vm, from, to) })
	c.must(os.Rename(filepath.Join(c.rulesDir(), from), filepath.Join(c.rulesDir(), to)))
	return from + " to " + to
}

// sameAddress brings, or takes away, a second file for an AppVM's address.
func (c *chaos) sameAddress() string {
	vm := c.one()
	name := "z" + c.names[vm]
	if vm.Files[file(vm, name)].Kind == absent {
		return c.write(vm, name, c.someRules(hosts(c.rng.UintN(1<<16))&listable))
	}
	c.court.change(func(m *model.Model) { m.SetFile(vm, file(vm, name), content{}) })
	c.removeRules(file(vm, name))
	return "without " + name
}

func (c *chaos) setTemplate(t content) {
	c.court.change(func(m *model.Model) { m.SetTemplate(t) })
	if t.Text == "" {
		if err := os.Remove(filepath.Join(c.rulesDir(), "config")); !errors.Is(err, os.ErrNotExist) {
			c.must(err)
		}
		return
	}
	c.rules("config", t.Text)
}

// someTemplate is one that is good: none, one with default deny, or one with default allow.
func (c *chaos) someTemplate() content {
	n := c.rng.IntN(6)
	t := content{Kind: good, Open: n >= 3 && !c.court.Under() || n == 5} // with a ceiling default allow is refused
	if n > 0 {
		t.Text = strings.ReplaceAll(c.builtin(), "MaxClients 100", fmt.Sprintf("MaxClients %d", 100+n))
	}
	if t.Open {
		t.Text = strings.ReplaceAll(t.Text, defaultDeny, "FilterDefaultDeny No\n")
	}
	return t
}

const defaultDeny = "FilterDefaultDeny Yes\n"

func (c *chaos) editTemplate() string {
	t := c.someTemplate()
	c.setTemplate(t)
	return map[bool]string{true: "default allow", false: "default deny"}[t.Open]
}

func (c *chaos) badTemplate() string {
	t := []content{
		{Kind: misread, Text: c.builtin() + "Timeout {tiem}\n"},
		{Kind: misread, Text: strings.ReplaceAll(c.builtin(), "Port {port}", "Port 8888")},
		{Kind: misrun, Text: c.builtin() + "Nonsense Yes\n"},
	}[c.rng.IntN(3)]
	c.setTemplate(t)
	return fmt.Sprint(t.Kind)
}

// writeTemplateSlowly has the template open for writing for a while. Its text would permit everything meanwhile.
func (c *chaos) writeTemplateSlowly() string {
	t := c.someTemplate()
	if t.Text == "" {
		t.Text = c.builtin()
	}
	c.court.change(func(m *model.Model) { m.SetTemplate(content{Kind: misread}) })
	f, err := os.Create(filepath.Join(c.rulesDir(), "config"))
	c.must(err)
	half, _, _ := strings.Cut(c.builtin(), defaultDeny)
	_, err = f.WriteString(half + "FilterDefaultDeny No\n")
	c.must(err)
	c.moment()
	c.must(f.Truncate(0))
	_, err = f.WriteAt([]byte(t.Text), 0)
	c.must(err)
	c.court.change(func(m *model.Model) { m.SetTemplate(t) })
	c.must(f.Close())
	return map[bool]string{true: "default allow", false: "default deny"}[t.Open]
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
	c.court.change(func(m *model.Model) { m.Gap() })
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
	for t.Open && c.court.Under() { // that is refused
		t = c.someTemplate()
	}
	c.setTemplate(t)
	for _, vm := range c.court.VMs[:len(c.court.VMs)-1] {
		name := "z" + c.names[vm]
		if vm.Files[file(vm, name)].Kind != absent {
			c.court.change(func(m *model.Model) { m.SetFile(vm, file(vm, name), content{}) })
			c.removeRules(file(vm, name))
		}
		c.write(vm, c.name(vm), c.someRules(hosts(c.rng.UintN(1<<16))&listable))
	}
}
