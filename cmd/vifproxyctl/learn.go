package main

import (
	"context"
	"errors"
	"flag"
	"time"

	"vifproxy/control"
	"vifproxy/internal/edit"
	"vifproxy/internal/learning"
	"vifproxy/internal/propose"
	"vifproxy/internal/screen"
	"vifproxy/internal/usage"
)

func learnVerb() verb {
	return verb{
		name: "learn", args: "NAME", least: 1, most: 1, json: true,
		options: func(f *flag.FlagSet) action {
			o := learnOptions{duration: usage.Length{D: learnTime}}
			f.Var(&o.duration, "for", "for this `TIME` at most, such as 5m, at most 1h; without it 10m")
			f.StringVar(&o.accept, "accept", "", "add the lines of these `SITES`, separated by commas, or of all; a wildcard or a browser's own site only if it is named")
			return func(ctx context.Context, c *call) error { return runLearn(ctx, c, o) }
		},
		summary: "Let a VM reach every host for a time, and propose lines for what it has reached.",
		help:    learning.Help,
	}
}

// learnTime is for how long a VM learns if nothing else is said.
const learnTime = 10 * time.Minute

type learnOptions struct {
	duration usage.Length
	accept   string
}

func runLearn(ctx context.Context, c *call, o learnOptions) error {
	const longest = control.LearnMax * time.Second
	if d := o.duration.D; d < time.Second || d > longest {
		return usagef("--for=%s: from 1s to %v", o.duration.Typed, usage.Length{D: longest})
	}
	at := c.placeOf(ctx, fileOptions{})
	if at.err != nil {
		return at.err
	}
	l := &learning.Learner{Client: c.client, VM: c.args[0], Out: c.stdout, JSON: c.json}
	began, err := l.Follow(ctx, o.duration.D)
	if !began {
		return err
	}
	if err != nil {
		c.warn("%v", err) // what was noted is worth a proposal all the same
		err = errTrouble
	}
	for _, gap := range l.Gaps() {
		c.warn("%s", gap)
	}
	return errors.Join(accept(ctx, c, l, at, o.accept), err)
}

// accept proposes lines for what was learnt, and adds those of the accepted sites as allow does.
func accept(ctx context.Context, c *call, l *learning.Learner, at place, sites string) error {
	list, err := listOf(at, l.VM)
	if err != nil {
		return err
	}
	p := l.Propose(list)
	if sites == "" && !c.json && screen.Usable("") == nil && len(p.Sites) > 0 {
		g := newGrantOf(c, grantOptions{}, nil)
		g.VM, g.place = l.VM, at
		if err := g.read(); err != nil {
			return err
		}
		return errors.Join(g.tick(ctx, "Hosts that "+screen.Word(l.VM)+" has reached and that its list does not permit. Tick lines.", p.Proposal),
			mentionCommon(c, at, l.VM))
	}
	if err := l.Show(p, sites == ""); err != nil || sites == "" || sites == propose.All && p.Command == "" {
		return err
	}
	lines, err := p.Lines(sites)
	if err != nil {
		return err
	}
	allow := *c
	allow.args = append([]string{l.VM}, lines...)
	g, err := newGrant(&allow, grantOptions{})
	if err != nil {
		return err
	}
	g.asked = nil // these hosts have just been reached, and each question would take its time
	return errors.Join(g.allow(ctx), mentionCommon(c, at, l.VM))
}

// listOf returns the list of a VM, wherever that is.
func listOf(at place, name string) (list propose.List, err error) {
	set, err := edit.Read(at.dir, at.template, at.ceiling)
	if err != nil {
		return list, err
	}
	vm, err := at.status.VM(name)
	if err != nil {
		return list, err
	}
	list.Syntax, list.Ports, list.MayAllow = set.Linter.Syntax, set.Ports, set.MayAllow
	list.File, err = fileOf(at, set.Set, vm)
	return list, err
}
