package main

import (
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
			return func(c *call) error { return runLearn(c, o) }
		},
		summary: "Let a VM reach every host for a time, and propose lines for what it has reached.",
		help: `While NAME learns, it reaches every public host by its name, at the ports that are open for it: 80, 443,
and those of the template "config" and of its list. Nothing private is open, no other port, and no address
without a name. Use the pages and programs that the VM is for, and nothing else. The VM can send what it knows
to anybody meanwhile, so do not learn in a VM that you do not trust.

learn prints each host that is new, and whether the list permits it. Ctrl-C and Ctrl-Z end it, and so do the
end of the time, stop, the end of the VM, and the end of vifproxyd. Then the list is in force again, and
connections that were made meanwhile are cut, except those that the list's own process had before.

In the end learn proposes lines, grouped by site, also for hosts that were refused because their port is not
open. On a terminal you tick lines and see the list as it would be, as with denied --pick; Enter writes it.
Elsewhere the lines are printed. A row says what a wildcard would permit that nobody has asked for. Hosts that
browsers are known to request without a page come last. --accept adds lines as allow does; all takes nothing
that was refused. Without --accept the last line is the command that adds what all takes.

1000 hosts are noted. Later ones are counted and not proposed: accept those that there are, and learn
again. A proxy does not say how many bytes it moves, so learn does not either.

With --json each line is an object, whose "event" says what it is:
    learning      the first line: NAME learns for "seconds" at most
    host          "host" and "port" that were reached, "count" times; "listed" if the list permits the
                  host. A later line takes the place of an earlier one
    cut           "cut" connections to further hosts are not noted, "unread" ones are to no host name
    over          the list is in force again, "why"
    proposal      "sites", "background" (what browsers request without a page), "left_out", and
                  "command" that adds all lines of "sites"
Behind that, --accept prints what allow prints.
`,
	}
}

// learnTime is for how long a VM learns if nothing else is said.
const learnTime = 10 * time.Minute

type learnOptions struct {
	duration usage.Length
	accept   string
}

func runLearn(c *call, o learnOptions) error {
	const longest = control.LearnMax * time.Second
	if d := o.duration.D; d < time.Second || d > longest {
		return usagef("--for=%s: from 1s to %v", o.duration.Typed, usage.Length{D: longest})
	}
	at := c.placeOf(fileOptions{})
	if at.err != nil {
		return at.err
	}
	l := &learning.Learner{Client: c.client, VM: c.args[0], Out: c.stdout, JSON: c.json}
	began, err := l.Follow(c.ctx, o.duration.D)
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
	return errors.Join(accept(c, l, at, o.accept), err)
}

// accept proposes lines for what was learnt, and adds those of the accepted sites as allow does.
func accept(c *call, l *learning.Learner, at place, sites string) error {
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
		return g.tick("Hosts that "+screen.Word(l.VM)+" has reached and that its list does not permit. Tick lines.", p.Proposal)
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
	return g.allow()
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
	if vm.Origin != control.InDom0 && vm.Origin != control.InFirewall {
		list.File, err = set.Find(name)
		return list, err
	}
	elsewhere, err := listAt(at.status, vm.Path)
	if err == nil {
		list.File, err = elsewhere.Parse()
	}
	return list, err
}
