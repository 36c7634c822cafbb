package rules

import (
	"crypto/sha256"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"vifproxy/internal/secret"
	"vifproxy/internal/terminal"
	"vifproxy/rules/flaws"
)

// A Template is the text of a tinyproxy configuration with placeholders for what differs between AppVMs.
type Template struct {
	Path  string            // "" for the built-in one
	sum   [sha256.Size]byte // of the text
	parts []part
}

// Same reports whether the other template is the same in every byte, and in the same place.
func (t Template) Same(other Template) bool { return t.Path == other.Path && t.sum == other.sum }

// Name returns what messages call the template. To a Qubes user a template is a VM.
func (t Template) Name() string {
	if t.Path == "" {
		return "the built-in template"
	}
	return "the template " + terminal.Quote(t.Path)
}

// A part of a template is literal text, or a placeholder if value is set.
type part struct {
	text  string
	value func(Values) string
}

// Values are what the placeholders of a template stand for.
type Values struct {
	Port      uint16     // the proxy listens on
	VMIP      netip.Addr // of the AppVM that the proxy serves
	BindIP    netip.Addr // the proxy listens on: the AppVM's gateway
	LogFile   string
	PidFile   string
	RulesFile string // what File.Lines returned, as a file
}

var placeholders = map[string]func(Values) string{
	"port":       func(v Values) string { return strconv.Itoa(int(v.Port)) },
	"vm_ip":      func(v Values) string { return v.VMIP.String() },
	"bind_ip":    func(v Values) string { return v.BindIP.String() },
	"log_file":   func(v Values) string { return v.LogFile },
	"pid_file":   func(v Values) string { return v.PidFile },
	"rules_file": func(v Values) string { return v.RulesFile },
}

// Without these a proxy would listen where its AppVM cannot reach it, or would filter nothing.
var required = []struct{ name, line string }{
	{"port", "Port {port}"},
	{"bind_ip", "Listen {bind_ip}"},
	{"rules_file", `Filter "{rules_file}"`},
}

// A template has to say whether rule files are white lists. Without FilterDefaultDeny a proxy lets everything pass that its rule
// file does not name, and a template that was cut in the middle looks as if it wanted that.
var (
	defaultDeny    = regexp.MustCompile(`(?i)^filterdefaultdeny([ \t\v\f\r]|$)`)
	defaultDenyArg = regexp.MustCompile(`(?i)^\S+[ \t]+(yes|on|no|off)$`) // as tinyproxy's BOOL has it (src/conf.c)
)

const defaultDenyRemedy = "write FilterDefaultDeny Yes for white lists: hosts pass that a rule file names; " +
	"or FilterDefaultDeny No for black lists: all others pass"

// ParseTemplate reads the text of a template. Its errors are of type *Error and name path. Placeholders are {port}, {vm_ip},
// {bind_ip}, {log_file}, {pid_file} and {rules_file}; {{ and }} stand for the braces themselves. The text has to say
// FilterDefaultDeny, Yes or No. ParseTemplate does not check whether tinyproxy takes the rest.
func ParseTemplate(path, text string) (Template, error) {
	t, all := ReadTemplate(path, text)
	if all != nil {
		return Template{}, all[0]
	}
	return t, nil
}

// ReadTemplate returns what can be read of a template, and all that is wrong with it.
func ReadTemplate(path, text string) (t Template, all []*Error) {
	if len(text) > sizeMax {
		return t, []*Error{tooLarge(path)}
	}
	t.Path, t.sum = path, sha256.Sum256([]byte(text))
	seen := map[string]bool{}
	saysDeny := false
	number := 0
	for line := range strings.SplitAfterSeq(text, "\n") {
		number++
		// tinyproxy takes CRLF for a syntax error; to a person it is a line end like any other.
		if bare, ok := strings.CutSuffix(line, "\r\n"); ok {
			line = bare + "\n"
		}
		flaw := invisible(strings.TrimSuffix(line, "\n"))
		if flaw == nil {
			flaw = t.add(line, seen)
		}
		if text := strings.Trim(line, " \t\v\f\r\n"); flaw == nil && defaultDeny.MatchString(text) {
			saysDeny = true
			if !defaultDenyArg.MatchString(text) {
				flaw = &flaws.Flaw{Col: strings.Index(line, text) + 1, Text: flaws.Excerpt(text) + " says neither Yes nor No",
					Remedy: defaultDenyRemedy}
			}
		}
		if flaw != nil {
			all = append(all, at(path, number, flaw))
		}
	}
	for _, r := range required {
		if !seen[r.name] {
			all = append(all, wrong(path, 0, "the placeholder {"+r.name+"} is not used",
				"add the line: "+r.line))
		}
	}
	if !saysDeny {
		all = append(all, wrong(path, 0, "FilterDefaultDeny is not said",
			defaultDenyRemedy))
	}
	return t, all
}

// add takes in one line.
func (t *Template) add(line string, seen map[string]bool) *flaws.Flaw {
	comment := strings.HasPrefix(strings.TrimLeft(line, " \t"), "#")
	for rest := line; rest != ""; {
		at := strings.IndexAny(rest, "{}")
		if at < 0 {
			t.parts = append(t.parts, part{text: rest})
			break
		}
		col := len(line) - len(rest) + at + 1
		t.parts = append(t.parts, part{text: rest[:at]})
		rest = rest[at:]
		if strings.HasPrefix(rest, "{{") || strings.HasPrefix(rest, "}}") {
			t.parts = append(t.parts, part{text: rest[:1]})
			rest = rest[2:]
			continue
		}
		name, after, closed := strings.Cut(rest[1:], "}")
		if rest[0] == '}' || !closed {
			return &flaws.Flaw{Col: col, Text: "a single " + flaws.Excerpt(rest[:1]),
				Remedy: "write {{ or }} for a brace that belongs to no placeholder"}
		}
		value, ok := placeholders[name]
		if !ok {
			what := flaws.Excerpt("{" + name + "}")
			if secret.Directive(line) != line { // braces of a password
				what = "in a line that is not shown, as it may hold a password"
			}
			return &flaws.Flaw{Col: col, Text: "unknown placeholder " + what,
				Remedy: "known are {port}, {vm_ip}, {bind_ip}, {log_file}, {pid_file} and {rules_file}; " +
					"write {{ and }} for braces"}
		}
		t.parts = append(t.parts, part{value: value})
		// A placeholder in a comment sets nothing.
		seen[name] = seen[name] || !comment
		rest = after
	}
	return nil
}

// Render returns the template's text with the values in place of the placeholders.
func (t Template) Render(v Values) string {
	texts := make([]string, len(t.parts))
	for i, p := range t.parts {
		if texts[i] = p.text; p.value != nil {
			texts[i] = p.value(v)
		}
	}
	return strings.Join(texts, "")
}
