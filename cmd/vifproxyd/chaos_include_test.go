package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"vifproxy/internal/simulate/model"
)

// This file is a list of lists.d in the chaos run, which rule files include.

const sharedName = "shared"

func (c *chaos) sharedPath() string { return filepath.Join(c.rulesDir(), "lists.d", sharedName) }

// includeShared gives an AppVM a rule file with lines of its own and those of the shared list.
func (c *chaos) includeShared() string {
	vm := c.one()
	text := rulesFor(hosts(c.rng.UintN(1<<16))&listable, ofDomains+"\n")
	text.Text, text.Includes = strings.Replace(text.Text, "\n\n", "\n#: include "+sharedName+"\n\n", 1), true
	return c.write(vm, c.name(vm), text)
}

// putShared writes the shared list as an editor does.
func (c *chaos) putShared(shared content) {
	c.court.change(func(m *model.Model) { m.SetShared(shared) })
	c.list(sharedName, strings.TrimSuffix(shared.Text, "\n"))
}

func (c *chaos) editShared() string {
	shared := rulesFor(hosts(c.rng.UintN(1<<16))&listable, ofDomains+"\n")
	c.putShared(shared)
	return fmt.Sprint(shared.Lines)
}

// badShared has the shared list have a mistake, include itself or what is not there, or not be there.
func (c *chaos) badShared() string {
	n := c.rng.IntN(6)
	if n > 1 {
		c.putShared(content{Kind: misread, Text: []string{2: "*.example\na example", 3: "#: include " + sharedName, 4: "#: include nothing", 5: "#: egress 0.0.0.0/0 of nobody"}[n]})
		return fmt.Sprint("bad ", n)
	}
	c.court.change(func(m *model.Model) { m.SetShared(content{Kind: misread}) })
	if err := os.Remove(c.sharedPath()); !os.IsNotExist(err) {
		c.must(err)
	}
	if n == 0 {
		return "none"
	}
	c.must(os.MkdirAll(filepath.Dir(c.sharedPath()), 0o755))
	c.must(os.Symlink("nowhere", c.sharedPath()))
	return "a link to nowhere"
}

// writeSharedSlowly has the shared list open for writing for a while. Its text would permit everything meanwhile.
func (c *chaos) writeSharedSlowly() string {
	c.editShared() // not through a link
	shared := rulesFor(hosts(c.rng.UintN(1<<16))&listable, ofDomains+"\n")
	c.court.change(func(m *model.Model) { m.SetShared(content{Kind: misread}) })
	f, err := os.Create(c.sharedPath())
	c.must(err)
	_, err = f.WriteString(ofDomains + "\n*.example\n")
	c.must(err)
	c.moment()
	c.must(f.Truncate(0))
	_, err = f.WriteAt([]byte(shared.Text), 0)
	c.must(err)
	c.court.change(func(m *model.Model) { m.SetShared(shared) })
	c.must(f.Close())
	return fmt.Sprint(shared.Lines)
}

// linkShared has the shared list lead to one in another directory, and changes that one.
func (c *chaos) linkShared() (what string) {
	c.editShared()
	target := filepath.Join(c.dir, fmt.Sprint("shared", c.rng.IntN(1e9)))
	for i := range 2 {
		shared := rulesFor(hosts(c.rng.UintN(1<<16))&listable, ofDomains+"\n")
		c.must(writeFile(target+".new", []byte(shared.Text), 0o644))
		if i == 1 {
			c.court.change(func(m *model.Model) { m.SetShared(shared) })
		}
		c.must(os.Rename(target+".new", target))
		if i == 0 {
			c.court.change(func(m *model.Model) { m.SetShared(shared) })
			aside := filepath.Join(filepath.Dir(c.sharedPath()), ".link")
			c.must(os.Symlink(target, aside))
			c.must(os.Rename(aside, c.sharedPath()))
			c.moment()
		}
		what = fmt.Sprint(shared.Lines)
	}
	return what
}
