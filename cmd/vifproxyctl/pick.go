package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"

	"vifproxy/internal/edit"
	"vifproxy/internal/events"
	"vifproxy/internal/picker"
	"vifproxy/internal/propose"
	"vifproxy/internal/screen"
	"vifproxy/internal/terminal"
	"vifproxy/rules"
)

// pickOptions are those by which lines for refused hosts are chosen.
type pickOptions struct {
	pick   bool
	accept string // words, separated by commas
}

func (o *pickOptions) define(f *flag.FlagSet) {
	f.BoolVar(&o.pick, "pick", false, "choose refused hosts of one VM, and add lines for them to its list")
	f.StringVar(&o.accept, "accept", "", "add the lines of these `SITES`, separated by commas, or of all, without asking")
}

func (o pickOptions) given() bool { return o.pick || o.accept != "" }

// A pick is what --pick prints as JSON.
type pick struct {
	VM   string `json:"vm"`
	Path string `json:"path"` // of the list
	propose.Proposal
}

// runPick proposes lines for what was refused to one VM, and adds those that a person accepts.
func runPick(ctx context.Context, c *call, o pickOptions, denied []events.Denied) error {
	g := newGrantOf(c, grantOptions{}, nil)
	g.place = c.place(ctx, fileOptions{})
	if err := g.place.fatal(); err != nil {
		return err
	}
	g.mayMake = true
	if err := g.read(); err != nil {
		return err
	}
	var asked []propose.Host
	for _, d := range denied {
		for _, h := range d.Hosts {
			if d.VM == c.args[0] && (h.Reason == events.ReasonList || h.Reason == events.ReasonPort) {
				asked = append(asked, proposed(h))
			}
		}
	}
	return g.choose(ctx, o, propose.Of(propose.List{File: g.file, Syntax: g.check.Syntax, Ports: g.rules.Ports, MayAllow: g.rules.MayAllow}, asked))
}

// proposed returns a refused host as package propose takes it.
func proposed(h events.DeniedHost) propose.Host {
	p := propose.Host{Name: h.Host, Port: h.Port, Count: h.Count, First: h.First, Last: h.Last, Browser: h.Browser}
	if h.Port == 80 && h.Reason == events.ReasonList {
		p.Port = 0 // a plain request needs no port
	}
	return p
}

// choose has a person choose lines of a proposal, or takes those that the options say, and adds them to the list that g has read.
func (g *grant) choose(ctx context.Context, o pickOptions, p propose.Proposal) error {
	var accepted []propose.Line
	switch unusable := screen.Usable(""); {
	case o.accept != "":
		var err error
		if accepted, err = p.Accept(strings.Split(o.accept, ",")); err != nil {
			return usagef("--accept: %v", err)
		}
	case g.c.json:
		return g.c.print(pick{g.VM, g.Path, p}, "")
	case len(p.Sites)+len(p.Background) == 0:
		return say(g.c.stdout, "%snothing is proposed for %s: its list permits all that was refused to it, or no list can\n", p.Text(), terminal.Quote(g.VM))
	case unusable != nil:
		return say(g.c.stdout, "%sto accept all but what browsers request without a page: vifproxyctl denied %s --accept=%s\n",
			p.Text(), terminal.Quote(g.VM), propose.All)
	default:
		return g.tick(ctx, fmt.Sprintf("Hosts that were refused to %s. Tick what it may reach.", screen.Word(g.VM)), p)
	}
	return newGrantOf(g.c, g.o, hostsOf(accepted)).allow(ctx)
}

// tick has a person tick lines on the terminal, and adds them to the list that g has read.
func (g *grant) tick(ctx context.Context, title string, p propose.Proposal) error {
	m := picker.New(title, p, g.preview)
	if err := screen.Show(ctx, m, nil); err != nil {
		return err
	}
	accepted, ok := m.Accepted()
	if !ok {
		return say(g.c.stdout, "nothing was changed\n")
	}
	return newGrantOf(g.c, g.o, hostsOf(accepted)).allow(ctx)
}

func hostsOf(lines []propose.Line) (hosts []rules.Host) {
	for _, l := range lines {
		hosts = append(hosts, l.Host)
	}
	return hosts
}

// preview returns the list with lines that are accepted, and which lines of it are new.
func (g *grant) preview(accepted []propose.Line) (list []string, added []int, err error) {
	with := newGrantOf(g.c, g.o, hostsOf(accepted))
	with.file, with.check = g.file, g.check
	if err := g.rules.MayAllow(with.hosts...); err != nil {
		return nil, nil, err
	}
	with.lack()
	var content []byte
	switch {
	case g.dom0 != nil:
		content = g.dom0.Content()
	case g.kind == edit.Missing:
		content = []byte(edit.NamesHeader)
	default:
		if content, err = rules.ReadFile(g.Path); err != nil {
			return nil, nil, err
		}
		if g.kind == edit.Unwritten {
			content = slices.Concat([]byte(edit.NamesHeader), content)
		}
	}
	list = rules.SourceLines(rules.Append(content, with.Lines))
	if last := len(list) - 1; list[last] == "" { // behind the end of the last line
		list = list[:last]
	}
	for i := range with.Lines {
		added = append(added, len(list)-len(with.Lines)+i)
	}
	return list, added, nil
}
