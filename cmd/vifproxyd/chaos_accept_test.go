package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"vifproxy/control"
	"vifproxy/internal/simulate/model"
)

// accept adds hosts to the list of an AppVM as a person does who accepts what a lesson has proposed: vifproxyctl writes the rule file while
// all else goes on. It refuses to write one that has a mistake, one that does not count, and what a ceiling does not admit. Mostly the
// person has looked before at which list that is.
func (c *chaos) accept() string {
	vm := c.one()
	picked := hosts(1) << c.rng.IntN(len(universe)-1)
	picked |= hosts(1) << c.rng.IntN(len(universe)-1)
	if c.rng.IntN(4) > 0 {
		if could, lacks := c.acceptable(); could != nil {
			vm, picked = could, lacks
		}
	}
	if c.court.Down() || vm.Files[file(vm, c.name(vm))].Kind == absent {
		return c.names[vm] + " has no file, or there is no daemon"
	}
	_, what := c.allow(vm, picked)
	return what
}

// acceptAtRest does the same when all is settled, after a lesson if the AppVM can learn. Nothing hinders it: the file is written each time.
func (c *chaos) acceptAtRest() string {
	if c.broken() {
		return ""
	}
	for t := c.court.Template(); t.Kind != good || t.Open; t = c.court.Template() {
		c.setTemplate(c.someTemplate())
	}
	if c.court.Under() && c.court.Ceiling().Kind != good {
		c.editCeiling()
	}
	vm, picked := c.acceptable()
	if vm == nil {
		vm, picked = c.one(), 1
		for name := range maps.Clone(vm.Features) {
			c.setFeature(vm, strings.TrimSuffix(name, "."+vm.IP.String()), content{})
		}
		for name := range maps.Clone(vm.Files) {
			c.court.change(func(m *model.Model) { m.SetFile(vm, name, content{}) })
			c.removeRules(name)
		}
		c.write(vm, c.names[vm], c.someRules(0))
		if c.court.Under() && !c.court.Ceiling().Lines.Has(0) {
			picked = 2 // a ceiling has all hosts but one
		}
	}
	c.until("the daemon has read that", func() error {
		ctx, cancel := context.WithTimeout(c.Context(), patience)
		defer cancel()
		_, err := c.ctl.Update(ctx)
		return err
	})
	end := func() {}
	if len(vm.Vifs) > 0 && len(vm.Astray) == 0 && !vm.Held(true) {
		end = c.lesson(vm)
	}
	written, what := c.allow(vm, picked)
	end()
	if !written {
		c.fail("all is settled, and vifproxyctl allow writes nothing: %s", what)
	}
	c.counts["accepted at rest"]++
	return what
}

// lesson has an AppVM learn, and returns when that has begun. End ends it.
func (c *chaos) lesson(vm *appVM) (end func()) {
	name := cmp.Or(vm.Shown(), c.names[vm])
	c.court.change(func(m *model.Model) { m.Learns(vm, true) })
	begun, over := make(chan struct{}), make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(c.Context(), patience)
		defer cancel()
		begins := sync.OnceFunc(func() { close(begun) })
		over <- c.ctl.Learn(ctx, control.LearnRequest{Name: name, Seconds: int(patience / time.Second)}, func(control.Lesson) error {
			begins()
			return nil
		})
	}()
	select {
	case <-begun:
	case err := <-over:
		c.fail("all is settled, and %s cannot learn: %v", name, err)
		return func() {}
	}
	return func() {
		if err := c.ctl.EndLesson(c.Context(), name); err != nil {
			c.counts["lessons that somebody else ended"]++
		}
		<-over
		c.court.change(func(m *model.Model) {
			m.Learns(vm, false)
			c.learnt++
		})
	}
}

// acceptable returns an AppVM whose rule file vifproxyctl can write, and one or two hosts that it lacks; nil if there is none.
func (c *chaos) acceptable() (vm *appVM, picked hosts) {
	t, below := c.court.Template(), listable
	if c.court.Under() {
		below &= c.court.Ceiling().Lines
	}
	if c.court.Down() || t.Kind != good || t.Open {
		return nil, 0
	}
	for _, i := range c.rng.Perm(len(c.court.VMs) - 1) {
		vm := c.court.VMs[i]
		now := vm.Now()
		lacks := below &^ now.Lines
		if now.Kind != good || now.From != model.InFiles || lacks == 0 || c.court.Under() && now.Lines&^below != 0 {
			continue
		}
		for picked == 0 {
			one, other := c.rng.IntN(len(universe)-1), c.rng.IntN(len(universe)-1)
			picked = lacks & (1<<one | 1<<other)
		}
		return vm, picked
	}
	return nil, 0
}

// allow has vifproxyctl write hosts into the rule file of an AppVM, and says whether it has.
func (c *chaos) allow(vm *appVM, picked hosts) (written bool, what string) {
	name := c.name(vm)
	path := filepath.Join(c.rulesDir(), file(vm, name))
	old := vm.Files[file(vm, name)]
	grown := old
	grown.Lines |= picked
	c.court.change(func(m *model.Model) { m.SetFile(vm, file(vm, name), grown) })
	was, err := os.ReadFile(path)
	c.must(err)
	var words []string
	for i, host := range universe {
		if picked.Has(i) {
			words = append(words, host)
		}
	}
	c.court.explained(picked)
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	said, failed := exec.CommandContext(ctx, filepath.Join(programs, "vifproxyctl"), append([]string{"--socket=" + c.socket(), "allow", name}, words...)...).CombinedOutput()
	c.explained = c.explained || strings.Contains(string(said), "\n    try ")
	now, err := os.ReadFile(path)
	c.must(err)
	kept := strings.HasPrefix(string(now), strings.TrimSuffix(string(was), "\n"))
	if old.Lines == 0 { // vifproxyctl begins a file that has no lines with the format
		kept = strings.Contains(string(now), strings.TrimSuffix(string(was), "\n"))
	}
	switch {
	case string(now) == string(was):
		c.court.change(func(m *model.Model) { m.SetFile(vm, file(vm, name), old) })
		return false, fmt.Sprintf("%s writes nothing: %.80q", name, said)
	case old.Kind != good || !kept:
		c.fail("vifproxyctl allow %s has written what it should not: %v %s\n%q\nbefore: %q", name, failed, said, now, was)
	}
	grown.Text, grown.Lines = string(now), listed(string(now))
	if shared := c.court.Shared(); grown.Lines&^(old.Lines|picked) != 0 || grown.With(shared).Lines != old.With(shared).Lines|picked {
		c.fail("vifproxyctl allow %s %v: the file permits %v: %v %s\n%s", name, picked, grown.With(shared).Lines, failed, said, now)
	}
	c.court.change(func(m *model.Model) { m.SetFile(vm, file(vm, name), grown) })
	c.counts["accepted"]++
	if failed != nil {
		return true, fmt.Sprintf("%s %v: %v: %s", name, picked, failed, said)
	}
	return true, fmt.Sprintf("%s %v", name, picked)
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
