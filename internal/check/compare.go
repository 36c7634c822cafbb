package check

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"vifproxy/internal/policy"
	"vifproxy/internal/terminal"
	"vifproxy/rules"
)

// Compare returns what changes for an AppVM if its rule file, at path, gets the content of another file. That the template does not
// exist, or no rule file yet, is no error. An error says in which file it is. Compare needs the Template and the Ceiling of a Config.
func Compare(c Config, path, edited string) ([]policy.Change, error) {
	t := rules.Builtin()
	ceiling, err := rules.ReadCeiling(c.Ceiling)
	if err != nil {
		return nil, err
	}
	text, err := rules.ReadFile(c.Template)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if t, err = rules.ParseTemplate(c.Template, string(text)); err != nil {
			return nil, err
		}
	}
	of := func(from string) (*policy.Policy, error) {
		content, err := rules.ReadFile(from)
		switch absent := errors.Is(err, fs.ErrNotExist); {
		case absent && from == edited:
			return nil, fmt.Errorf("there is no file %s", from)
		case err != nil && !absent:
			return nil, err
		}
		file, err := rules.ParseFile(path, content)
		if err == nil {
			var p *policy.Policy
			in := policy.Input{Bind: netip.IPv4Unspecified()}
			if from == edited {
				in.Ceiling = ceiling
			}
			if p, err = policy.New(file, nil, t, in); err == nil {
				return p, nil
			}
		}
		if flaw := (*rules.Error)(nil); errors.As(err, &flaw) && flaw.Path == path {
			there := *flaw
			there.Path = from
			return nil, &there
		}
		return nil, err
	}
	old, err := of(path)
	if err != nil {
		return nil, err
	}
	p, err := of(edited)
	if err != nil {
		return nil, err
	}
	return p.ChangesFrom(old), nil
}

// Changes returns what an edit of a list changes, with the template at hand; nil if nobody can say, as the daemon refuses one of both.
func Changes(t rules.Template, old, edited rules.File) []policy.Change {
	in := policy.Input{Bind: netip.IPv4Unspecified()}
	before, err1 := policy.New(old, nil, t, in)
	after, err2 := policy.New(edited, nil, t, in)
	if err1 != nil || err2 != nil {
		return nil
	}
	return after.ChangesFrom(before)
}

// Effect returns what it changes that a line is added to a list or removed from it, for people: "" if that is about the host that the line
// names, or about one of those that were asked for, and if the line is about no host.
func Effect(changes []policy.Change, line string, added bool, asked ...rules.Host) string {
	for _, c := range changes {
		if c.Added != added || c.Text != line || strings.HasPrefix(c.Text, "#: ") {
			continue
		}
		entry, _ := rules.EntryOf(line)
		host, err := rules.ParseEntry(entry)
		switch {
		case err == nil && host.Name == c.Host, slices.ContainsFunc(asked, func(h rules.Host) bool { return h.Name == c.Host }):
			return ""
		case c.Host == "" && c.Why == "":
			return "changes nothing: other lines say the same"
		}
		return effect(c)
	}
	return ""
}

// WithEffect returns a line of a list, and behind it what it changes; effect is "" if that needs no words.
func WithEffect(line, effect string) string {
	if effect == "" {
		return terminal.Quote(line)
	}
	return terminal.Quote(line) + "  (" + terminal.Quote(effect) + ")"
}

// ChangesText returns changes for people, a line each.
func ChangesText(changes []policy.Change) string {
	width := 0
	for _, c := range changes {
		width = max(width, min(len(terminal.Quote(c.Text)), 40))
	}
	var text strings.Builder
	for _, c := range changes {
		sign := "-"
		if c.Added {
			sign = "+"
		}
		fmt.Fprintf(&text, "%s %-*s  %s\n", sign, width, terminal.Quote(c.Text), effect(c))
	}
	return text.String()
}

func effect(c policy.Change) string {
	switch {
	case c.Host != "" && c.Admits:
		return "permits " + c.Host
	case c.Host != "":
		return "no longer permits " + c.Host
	case c.Why != "":
		return "nobody can say what this changes: " + c.Why
	case strings.HasPrefix(c.Text, "#: ") && c.Admits: // a line of the list cannot begin like that
		return "opens this"
	case strings.HasPrefix(c.Text, "#: "):
		return "closes this"
	}
	return "changes nothing: the other list says the same"
}
