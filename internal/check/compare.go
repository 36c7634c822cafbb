package check

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
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

// ChangesText returns changes for people, a line each.
func ChangesText(changes []policy.Change) string {
	width := 0
	for _, c := range changes {
		width = max(width, min(len(terminal.Quote(c.Text)), 40))
	}
	var text strings.Builder
	for _, c := range changes {
		sign := map[bool]string{true: "+", false: "-"}[c.Added]
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
	case strings.HasPrefix(c.Text, "#: "): // a line of the list cannot begin like that
		return map[bool]string{true: "opens this", false: "closes this"}[c.Admits]
	}
	return "changes nothing: the other list says the same"
}
