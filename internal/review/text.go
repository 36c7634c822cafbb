package review

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"vifproxy/control"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
	"vifproxy/rules"
)

// Text returns a report for people, on a terminal of this width; 0 is none. With all it has every line, otherwise those about which
// something is found that can be done.
func (r Report) Text(width int, all bool) string {
	vm := terminal.Quote(r.VM)
	if r.Why != "" {
		return usage.Wrap(fmt.Sprintf("%s: nothing is counted: %s", vm, terminal.Quote(r.Why)), width, 4)
	}
	if r.Begun.IsZero() {
		return usage.Wrap(vm+": nothing is counted yet", width, 4)
	}
	text := usage.Wrap(fmt.Sprintf("%s: counted since %s, for %s while it was connected", vm, r.Begun.Local().Format(time.DateOnly), Length(r.Counted)), width, 4)
	if r.Lost > 0 {
		text += usage.Wrap(fmt.Sprintf("%d requests were not counted, the last one %s: the time around them does not count", r.Lost,
			r.Last.Local().Format(time.DateTime)), width, 4)
	}
	var b strings.Builder
	if table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0); all && len(r.Lines) > 0 {
		fmt.Fprintln(table, "COUNT\tLAST\tLINE")
		for _, l := range r.Lines {
			last := "--"
			if !l.Last.IsZero() {
				last = l.Last.Local().Format(time.DateOnly)
			}
			fmt.Fprintf(table, "%d\t%s\t%s\n", l.Count, last, terminal.Quote(l.Text))
		}
		table.Flush() //nolint:errcheck // it writes to memory
	}
	text += b.String()
	found, early := false, 0
	for _, l := range r.Lines {
		switch {
		case l.Finding == "":
			continue
		case !all && l.Early:
			early++
		default:
			text += usage.Wrap(r.about(l), width, 4)
		}
		found = true
	}
	if early > 0 {
		text += usage.Wrap(fmt.Sprintf("unused or wide, and counted for too short a time to propose anything: %d (`vifproxyctl review %s` names them)", early, vm), width, 4)
	}
	if !found {
		return text + "nothing is found: each line is needed, as far as is known\n"
	}
	for _, remedy := range r.remedies() {
		text += usage.Wrap(remedy, width, 4)
	}
	return text
}

// remedies returns how many lines of the list can be edited, and how.
func (r Report) remedies() (all []string) {
	plain, hosts, wildcards := 0, 0, 0
	for _, l := range r.Lines {
		switch {
		case r.Fixable(l, KeepWide):
			plain++
		case r.Fixable(l, ToHosts) && l.Wildcards != nil:
			hosts++
			wildcards++
		case r.Fixable(l, ToHosts):
			hosts++
		case r.Fixable(l, ToWildcards):
			wildcards++
		}
	}
	say := func(count int, what, options, does string) {
		how := fmt.Sprintf("`vifproxyctl review %s --fix%s` %s", terminal.Quote(r.VM), options, does)
		switch r.Origin {
		case control.InDom0:
			how = fmt.Sprintf("`vifproxyctl review %s --fix%s` prints the command for dom0", terminal.Quote(r.VM), options)
		case control.InFirewall:
			how = "change the firewall settings of the AppVM in dom0"
		case control.InRange:
			how = fmt.Sprintf("edit %s, which is for all AppVMs of its range", terminal.Quote(r.Path))
		}
		if count > 0 {
			all = append(all, fmt.Sprintf("%s: %d (%s)", what, count, how))
		}
	}
	say(plain, "covered or unused", "", "comments them out")
	say(hosts, "wide", " --narrow", "also replaces these by the hosts")
	say(wildcards, "wide, with a narrower wildcard", " --wildcards", "takes it")
	return all
}

// about returns what is found about a line.
func (r Report) about(l Line) string {
	entry, _ := rules.EntryOf(l.Text)
	text := fmt.Sprintf("%s:%d: %s ", terminal.Quote(l.Path), l.Number, terminal.Quote(entry))
	switch l.Finding {
	case Covered:
		text += "is covered: other lines permit the same hosts"
		if l.By != 0 {
			text = strings.TrimSuffix(text, "other lines permit the same hosts") + fmt.Sprintf("line %d permits the same hosts", l.By)
		}
		return text
	case Unused:
		text += fmt.Sprintf("is unused: no request needed it in %s", Length(l.Counted))
		if l.Loses != "" {
			text += "; without it " + terminal.Quote(l.Loses) + " is not permitted"
		}
	case Wide:
		hosts := "hosts"
		if len(l.Hosts) == 1 {
			hosts = "host"
		}
		text += fmt.Sprintf("is wide: it was used for %d %s; %s", len(l.Hosts), hosts, l.narrower())
	}
	if len(l.VMs) > 0 {
		text += "; the list is included by " + terminal.Quote(strings.Join(l.VMs, ", ")) + ", so edit it yourself"
	}
	if l.Early {
		text += "; it was counted for too short a time to propose that"
	}
	return text
}

// narrower returns what could be in the place of a wide line, and what that takes away.
func (l Line) narrower() (text string) {
	if l.Instead != nil {
		text = fmt.Sprintf("narrower: %s; then %s is not permitted any more", terminal.Quote(strings.Join(l.Instead, " ")), terminal.Quote(l.Loses))
	}
	w := l.Wildcards
	if w == nil {
		return text
	}
	wild := terminal.Quote(strings.Join(w.Lines, " "))
	if w.Admits != "" {
		wild += ", which also permits " + terminal.Quote(w.Admits)
	}
	switch {
	case text == "":
		return fmt.Sprintf("narrower: %s; then %s is not permitted any more", wild, terminal.Quote(w.Loses))
	case w.Loses != l.Loses:
		wild += fmt.Sprintf("; then %s is not permitted any more", terminal.Quote(w.Loses))
	}
	return text + "; or " + wild
}

// Length returns seconds for people, as days, hours, minutes or seconds.
func Length(seconds int64) string {
	for _, unit := range []struct {
		seconds int64
		name    string
	}{{24 * 3600, "d"}, {3600, "h"}, {60, "min"}} {
		if seconds >= 2*unit.seconds {
			return fmt.Sprintf("%d %s", seconds/unit.seconds, unit.name)
		}
	}
	return fmt.Sprintf("%d s", seconds)
}
