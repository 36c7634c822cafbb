package complete

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/usage"
)

// Files is the candidate that stands for any path, which shells complete themselves.
const Files = ":files"

// A Verb is what completion knows of a verb.
type Verb struct {
	Name    string
	Args    string // such as "NAME HOST..."
	Summary string
	Options []usage.Option // that it takes
}

// A Language is what may be in a command line.
type Language struct {
	Verbs   []Verb
	General []usage.Option      // that may stand before a verb
	Values  map[string][]string // of options, by what stands for the value in the help; of all others the value is a path
}

// A line is a command line that is not finished.
type line struct {
	Language
	words            []string
	socket, rulesDir string
	begun            bool          // a verb is there
	verb             Verb          // the zero Verb if there is none of that name
	args             []string      // behind the verb
	pending          *usage.Option // whose value comes next
	last             string        // the word to be completed
	asked            bool          // whether root was asked
}

// Candidates returns what the last word of a command line may be. The words are those behind the program's name, at least one. socket is
// that of the daemon, unless the words name another one.
func (l Language) Candidates(ctx context.Context, socket string, words []string) (all []string) {
	t := &line{Language: l, words: words, socket: socket}
	t.read()
	for _, candidate := range t.candidates(ctx) {
		word, _, _ := strings.Cut(candidate, "\t")
		if strings.HasPrefix(word, t.last) || word == Files {
			all = append(all, candidate)
		}
	}
	return all
}

// option returns the option of any verb that has this name with its hyphens, nil if there is none.
func (l Language) option(name string) *usage.Option {
	all := l.General
	for _, v := range l.Verbs {
		all = slices.Concat(all, v.Options)
	}
	for _, o := range all {
		if slices.Contains(o.Names, name) {
			return &o
		}
	}
	return nil
}

// read finds the verb, its arguments, and the option whose value comes next.
func (t *line) read() {
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
			if o := t.option(word); o != nil && o.Value != "" {
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

func (t *line) word(word string) {
	if t.begun {
		t.args = append(t.args, word)
		return
	}
	t.begun = true
	if at := slices.IndexFunc(t.Verbs, func(v Verb) bool { return v.Name == word }); at >= 0 {
		t.verb = t.Verbs[at]
	}
}

func (t *line) candidates(ctx context.Context) []string {
	if name, _, given := strings.Cut(t.last, "="); given && strings.HasPrefix(name, "--") {
		return prefixed(name+"=", t.values(t.option(name)))
	}
	switch {
	case t.pending != nil:
		return t.values(t.pending)
	case strings.HasPrefix(t.last, "-"):
		return t.options()
	case !t.begun:
		return t.verbs()
	}
	wanted := strings.Fields(t.verb.Args)
	if len(wanted) == 0 {
		return nil
	}
	at := min(len(t.args), len(wanted)-1)
	if len(t.args) >= len(wanted) && !strings.Contains(wanted[at], "...") {
		return nil
	}
	return t.arguments(ctx, wanted[at])
}

// arguments are those that a word of the table stands for.
func (t *line) arguments(ctx context.Context, kind string) []string {
	var all []string
	switch {
	case strings.Contains(kind, "FILE"): // or NAME
		if all = t.vms(ctx); !slices.ContainsFunc(all, func(candidate string) bool { return strings.HasPrefix(candidate, t.last) }) {
			return []string{Files}
		}
	case strings.Contains(kind, "NAME"):
		all = t.vms(ctx)
	case strings.Contains(kind, "HOST") && t.verb.Name == "deny": // what is allowed is in files
	case strings.Contains(kind, "HOST"):
		all = t.hosts(ctx, t.args[0])
	case strings.Contains(kind, "VERB"):
		all = t.verbs()
	default: // PATH, FILE
		return []string{Files}
	}
	return slices.DeleteFunc(all, func(candidate string) bool { // once is enough
		word, _, _ := strings.Cut(candidate, "\t")
		return slices.Contains(t.args, word)
	})
}

func (t *line) verbs() (all []string) {
	for _, v := range t.Verbs {
		all = append(all, v.Name+"\t"+v.Summary)
	}
	return all
}

// options returns those that the verb takes; if there is none yet, those of all verbs.
func (t *line) options() (all []string) {
	options := t.verb.Options
	if t.verb.Name == "" {
		options = t.General
	}
	for _, o := range options {
		word := o.Long()
		if o.Value != "" {
			word += "="
		}
		all = append(all, word+"\t"+o.Text)
	}
	return all
}

// values returns values of an option.
func (t *line) values(o *usage.Option) []string {
	if o == nil {
		return nil
	}
	if values, known := t.Values[o.Value]; known {
		return values
	}
	return []string{Files}
}

func prefixed(prefix string, words []string) (all []string) {
	for _, word := range words {
		if word != Files {
			word = prefix + word
		}
		all = append(all, word)
	}
	return all
}

// vms returns the VMs that the daemon knows. If the daemon cannot be asked, it returns those that have rule files.
func (t *line) vms(ctx context.Context) (all []string) {
	all, err := VMs(ctx, control.NewClient(t.socket), cmp.Or(t.rulesDir, defaults.RulesDir))
	if answers := t.asRoot(ctx, err); answers != nil {
		return answers
	}
	return all
}

// asRoot returns what root would be offered, if err says that only root may ask the daemon and sudo wants no password, as for Qubes'
// user. Shells run the completion without the sudo in front of the command line. In any other case asRoot returns nil.
func (t *line) asRoot(ctx context.Context, err error) (answers []string) {
	if denied := (*control.PermissionError)(nil); !errors.As(err, &denied) || os.Geteuid() == 0 || t.asked {
		return nil
	}
	t.asked = true
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	said, err := exec.CommandContext(ctx, "sudo", append([]string{"-n", "--", self, "complete", "--"}, t.words...)...).Output()
	if err != nil {
		return nil
	}
	return strings.FieldsFunc(string(said), func(r rune) bool { return r == '\n' })
}

// hosts returns the hosts that a VM asked for and did not get, the newest first. For allow it returns those that no rule permits.
func (t *line) hosts(ctx context.Context, vm string) []string {
	all, err := Hosts(ctx, control.NewClient(t.socket), vm, t.verb.Name == "allow")
	if err != nil {
		return t.asRoot(ctx, err)
	}
	return all
}
