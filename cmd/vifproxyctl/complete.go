package main

import (
	"cmp"
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/internal/complete"
	"vifproxy/internal/defaults"
	"vifproxy/internal/propose"
	"vifproxy/internal/settings"
	"vifproxy/internal/usage"
)

// completeVerb is for the shells' completions in packaging/completions. They give it the words of a command line behind the
// program's name, up to and with the one that is to be completed.
func completeVerb() verb {
	return verb{
		name: "complete", args: "WORD...", most: math.MaxInt, hidden: true, options: plain(runComplete),
		summary: "Print what may come next in a command line.",
	}
}

// completeTimeout bounds a completion: a person is typing.
const completeTimeout = 2 * time.Second

// runComplete prints candidates, each with a tab and an explanation, or the one line ":files" if a path is wanted. It never fails.
func runComplete(c *call) error {
	if len(c.args) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, completeTimeout)
	defer cancel()
	t := &commandLine{ctx: ctx, words: c.args, socket: c.socket}
	t.read()
	for _, candidate := range t.candidates() {
		word, _, _ := strings.Cut(candidate, "\t")
		if strings.HasPrefix(word, t.last) || word == files {
			if err := say(c.stdout, "%s\n", candidate); err != nil {
				return nil
			}
		}
	}
	return nil
}

const files = ":files"

// A commandLine is one that is not finished.
type commandLine struct {
	ctx              context.Context
	words            []string
	socket, rulesDir string
	begun            bool          // a verb is there
	verb             verb          // the zero verb if there is none of that name
	args             []string      // behind the verb
	pending          *usage.Option // whose value comes next
	last             string        // the word to be completed
	asked            bool          // whether root was asked
}

// optionNamed returns the option of any verb that has this name with its hyphens, nil if there is none.
func optionNamed(name string) *usage.Option {
	for _, o := range usage.Options(everyOption(new(general))) {
		if slices.Contains(o.Names, name) {
			return &o
		}
	}
	return nil
}

// read finds the verb, its arguments, and the option whose value comes next.
func (t *commandLine) read() {
	t.last = t.words[len(t.words)-1]
	for _, word := range t.words[:len(t.words)-1] {
		name, value, given := strings.Cut(word, "=")
		switch {
		case t.pending != nil:
			name, value, given = t.pending.Long(), word, true
			t.pending = nil
		case !strings.HasPrefix(word, "-"):
			t.word(word)
			continue
		case !given:
			if o := optionNamed(word); o != nil && o.Value != "" {
				t.pending = o
			}
		}
		switch {
		case given && name == "--socket":
			t.socket = value
		case given && name == "--rules-dir":
			t.rulesDir = value
		}
	}
}

func (t *commandLine) word(word string) {
	if !t.begun {
		t.begun = true
		t.verb, _ = verbNamed(word)
		return
	}
	t.args = append(t.args, word)
}

func (t *commandLine) candidates() []string {
	if name, _, given := strings.Cut(t.last, "="); given && strings.HasPrefix(name, "--") {
		return prefixed(name+"=", valuesOf(optionNamed(name)))
	}
	switch {
	case t.pending != nil:
		return valuesOf(t.pending)
	case strings.HasPrefix(t.last, "-"):
		return t.options()
	case !t.begun:
		return t.verbs()
	}
	wanted := strings.Fields(t.verb.args)
	if len(wanted) == 0 {
		return nil
	}
	at := min(len(t.args), len(wanted)-1)
	if len(t.args) >= len(wanted) && !strings.Contains(wanted[at], "...") {
		return nil
	}
	return t.arguments(wanted[at])
}

// arguments are those that a word of the table stands for.
func (t *commandLine) arguments(kind string) []string {
	var all []string
	switch {
	case strings.Contains(kind, "FILE"): // or NAME
		if all = t.vms(); !slices.ContainsFunc(all, func(candidate string) bool { return strings.HasPrefix(candidate, t.last) }) {
			return []string{files}
		}
	case strings.Contains(kind, "NAME"):
		all = t.vms()
	case strings.Contains(kind, "HOST") && t.verb.name == "deny": // what is allowed is in files
	case strings.Contains(kind, "HOST"):
		all = t.hosts(t.args[0])
	case strings.Contains(kind, "VERB"):
		all = t.verbs()
	default: // PATH, FILE
		return []string{files}
	}
	return slices.DeleteFunc(all, func(candidate string) bool { // once is enough
		word, _, _ := strings.Cut(candidate, "\t")
		return slices.Contains(t.args, word)
	})
}

func (t *commandLine) verbs() (all []string) {
	for _, v := range verbs() {
		if !v.hidden {
			all = append(all, v.name+"\t"+v.summary)
		}
	}
	return all
}

// options returns those that the verb takes; if there is none yet, those of all verbs.
func (t *commandLine) options() []string {
	f := usage.FlagSet("")
	new(general).define(f)
	if t.verb.options != nil {
		t.verb.options(f)
	}
	var all []string
	for _, o := range usage.Options(f) {
		if o.Long() == "--json" && !t.verb.json {
			continue
		}
		word := o.Long()
		if o.Value != "" {
			word += "="
		}
		all = append(all, word+"\t"+o.Text)
	}
	return all
}

// valuesOf returns values of an option.
func valuesOf(o *usage.Option) []string {
	if o == nil {
		return nil
	}
	switch o.Value {
	case "FORMAT":
		return settings.FormatNames()
	case "TIME":
		return []string{"10m", "1h", "24h"}
	case "SITES":
		return []string{propose.All}
	case "LINES", "LIST":
		return nil
	}
	return []string{files}
}

func prefixed(prefix string, words []string) []string {
	for i, word := range words {
		if word != files {
			words[i] = prefix + word
		}
	}
	return words
}

// vms returns the VMs that the daemon knows. If the daemon cannot be asked, it returns those that have rule files.
func (t *commandLine) vms() (all []string) {
	all, err := complete.VMs(t.ctx, control.NewClient(t.socket), cmp.Or(t.rulesDir, defaults.RulesDir))
	if answers := t.asRoot(err); answers != nil {
		return answers
	}
	return all
}

// asRoot returns what root would be offered, if err says that only root may ask the daemon and sudo wants no password, as for Qubes'
// user. Shells run the completion without the sudo in front of the command line. In any other case asRoot returns nil.
func (t *commandLine) asRoot(err error) (answers []string) {
	if denied := (*control.PermissionError)(nil); !errors.As(err, &denied) || os.Geteuid() == 0 || t.asked {
		return nil
	}
	t.asked = true
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	said, err := exec.CommandContext(t.ctx, "sudo", append([]string{"-n", "--", self, "complete", "--"}, t.words...)...).Output()
	if err != nil {
		return nil
	}
	return strings.FieldsFunc(string(said), func(r rune) bool { return r == '\n' })
}

// hosts returns the hosts that a VM asked for and did not get, the newest first. For allow it returns those that no rule permits.
func (t *commandLine) hosts(vm string) (all []string) {
	all, err := complete.Hosts(t.ctx, control.NewClient(t.socket), vm, t.verb.name == "allow")
	if err != nil {
		return t.asRoot(err)
	}
	return all
}
