package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// accept adds hosts to the list of an AppVM as a person does who accepts what a lesson has proposed: vifproxyctl writes the rule file while
// all else goes on. It refuses to write one that has a mistake, and what a ceiling does not admit.
func (c *chaos) accept() string {
	vm := c.one()
	picked := hosts(1) << c.rng.IntN(len(universe)-1)
	picked |= hosts(1) << c.rng.IntN(len(universe)-1)
	name := c.name(vm)
	path := filepath.Join(c.rulesDir(), file(vm, name))
	old, ok := vm.files[file(vm, name)]
	if c.court.down || !ok {
		return c.names[vm] + " has no file, or there is no daemon"
	}
	grown := old
	grown.lines |= picked
	c.court.change(func(m *model) { m.setFile(vm, file(vm, name), grown) })
	was, err := os.ReadFile(path)
	c.must(err)
	var words []string
	for i, host := range universe {
		if picked.has(i) {
			words = append(words, host)
		}
	}
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	said, failed := exec.CommandContext(ctx, filepath.Join(programs, "vifproxyctl"), append([]string{"--socket=" + c.socket(), "allow", name}, words...)...).CombinedOutput()
	now, err := os.ReadFile(path)
	c.must(err)
	switch {
	case string(now) == string(was):
		c.court.change(func(m *model) { m.setFile(vm, file(vm, name), old) })
		return fmt.Sprintf("%s writes nothing: %.80q", name, said)
	case old.kind != good || !strings.HasPrefix(string(now), strings.TrimSuffix(string(was), "\n")):
		c.fail("vifproxyctl allow %s has written what it should not: %v %s\n%q\nbefore: %q", name, failed, said, now, was)
	}
	grown.text, grown.lines = string(now), listed(string(now))
	if shared := c.court.shared[len(c.court.shared)-1]; grown.lines&^(old.lines|picked) != 0 || grown.with(shared).lines != old.with(shared).lines|picked {
		c.fail("vifproxyctl allow %s %v: the file permits %v: %v %s\n%s", name, picked, grown.with(shared).lines, failed, said, now)
	}
	c.court.change(func(m *model) { m.setFile(vm, file(vm, name), grown) })
	c.counts["accepted"]++
	return fmt.Sprintf("%s %v", name, picked)
}

var hostLine = regexp.MustCompile(`(?m)^\^?([a-z]+)\\?\.example\$?( #.*)?$`)

// listed is which hosts the lines of a rule file match.
func listed(text string) (lines hosts) {
	for _, m := range hostLine.FindAllStringSubmatch(text, -1) {
		for i, name := range universe {
			if name == m[1]+".example" {
				lines |= 1 << i
			}
		}
	}
	return lines
}
