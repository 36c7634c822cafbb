package main

import (
	"fmt"
	"os"
	"path/filepath"

	"vifproxy/internal/simulate/model"
)

// This file is the ceiling in the chaos run: what it may say, what the model expects of it, and what becomes of its file. Two of three
// daemons have none.

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
	c.court.change(func(m *model.Model) { m.SetCeiling(text) })
	c.ceiling(text.Text)
	return fmt.Sprint(text.Lines)
}

func (c *chaos) editCeiling() string { return c.setCeiling(c.someCeiling()) }

// badCeiling has one that cannot be read, or none.
func (c *chaos) badCeiling() string {
	n := c.rng.IntN(4)
	if n > 0 {
		c.setCeiling(content{Kind: misread, Text: []string{"", ofDomains + "\n*.example\na example\n", "^.*$\n\x00", "#: include common\n"}[n]})
		return fmt.Sprint("bad ", n)
	}
	c.court.change(func(m *model.Model) { m.SetCeiling(content{Kind: misread}) })
	if err := os.Remove(c.ceilingPath()); !os.IsNotExist(err) {
		c.must(err)
	}
	return "none"
}

// writeCeilingSlowly has the ceiling open for writing for a while. Its text would admit everything meanwhile.
func (c *chaos) writeCeilingSlowly() string {
	text := c.someCeiling()
	c.court.change(func(m *model.Model) { m.SetCeiling(content{Kind: misread}) })
	f, err := os.Create(c.ceilingPath())
	c.must(err)
	_, err = f.WriteString(ceilingHead + "*.example\n")
	c.must(err)
	c.moment()
	c.must(f.Truncate(0))
	_, err = f.WriteAt([]byte(text.Text), 0)
	c.must(err)
	c.court.change(func(m *model.Model) { m.SetCeiling(text) })
	c.must(f.Close())
	return fmt.Sprint(text.Lines)
}
