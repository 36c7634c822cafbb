package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/events"
	"vifproxy/internal/terminal"
	"vifproxy/rules"
)

// complete is the hidden verb that the shells' completions in packaging/completions ask: it is given the
// words of a command line after the program's name, up to and with the one to be completed. It prints
// candidates, each with a tab and an explanation, or the one line ":files" where a path is wanted. It never
// fails and never waits for long: somebody is typing.
func complete(c *call) error {
	const typingBound = 2 * time.Second
	if len(c.names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), typingBound)
	defer cancel()
	t := &typed{ctx: ctx, call: c}
	t.read(c.names)
	for _, candidate := range t.candidates() {
		word, _, _ := strings.Cut(candidate, "\t")
		if strings.HasPrefix(word, t.last) || word == files {
			fmt.Fprintln(c.stdout, candidate)
		}
	}
	return nil
}

const files = ":files"

// typed is a command line that is not finished.
type typed struct {
	*call
	ctx     context.Context
	begun   bool     // a verb is there
	verb    verb     // the zero verb if there is none of that name
	args    []string // after the verb
	pending string   // the flag whose value comes next
	last    string   // the word to be completed
	asked   bool     // whether root was asked
}

// ownFlag is a flag as the table of verbs names it.
var ownFlag = regexp.MustCompile(`[[|](--?[a-z-]+)(=[A-Z]+)?`)

func (t *typed) read(words []string) {
	t.last = words[len(words)-1]
	var flags []string // that take a value
	for _, v := range verbs() {
		for _, f := range ownFlag.FindAllStringSubmatch(v.flags, -1) {
			if f[2] != "" {
				flags = append(flags, f[1])
			}
		}
	}
	flags = append(flags, "--socket")
	for _, word := range words[:len(words)-1] {
		name, value, given := strings.Cut(word, "=")
		switch {
		case t.pending != "":
			name, value, given = t.pending, word, true
			t.pending = ""
		case !strings.HasPrefix(word, "-"):
			t.word(word)
			continue
		case !given && slices.Contains(flags, word):
			t.pending = word
		}
		switch {
		case given && name == "--socket":
			t.socket = value
		case given && name == "--rules-dir":
			t.rulesDir = value
		}
	}
}

func (t *typed) word(word string) {
	if !t.begun {
		t.begun = true
		t.verb, _ = find(word)
		return
	}
	t.args = append(t.args, word)
}

func (t *typed) candidates() []string {
	if name, _, given := strings.Cut(t.last, "="); given && strings.HasPrefix(name, "--") {
		return prefixed(name+"=", t.values(name))
	}
	switch {
	case t.pending != "":
		return t.values(t.pending)
	case strings.HasPrefix(t.last, "-"):
		return t.flags()
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
func (t *typed) arguments(kind string) []string {
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

func (t *typed) verbs() (all []string) {
	for _, v := range verbs() {
		if !v.hidden {
			all = append(all, v.name+"\t"+v.summary)
		}
	}
	return all
}

func (t *typed) flags() []string {
	all := []string{"--help\tExplain", "--socket=\tThe control socket of vifproxyd"}
	if t.verb.json {
		all = append(all, "--json\tPrint JSON")
	}
	for _, f := range ownFlag.FindAllStringSubmatch(t.verb.flags, -1) {
		flag := f[1]
		if f[2] != "" {
			flag += "="
		}
		all = append(all, flag+"\t"+strings.TrimPrefix(f[2], "="))
	}
	return all
}

// values are those of a flag.
func (t *typed) values(flag string) []string {
	switch flag {
	case "--format":
		return slices.Sorted(maps.Keys(formats))
	case "--for", "--since":
		return []string{"10m", "1h", "24h"}
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

// What goes into a command line is nothing that a shell might act on. VM names are like this anyhow; hosts
// are what an AppVM has sent.
var (
	plainName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`)
	plainHost = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
)

// vms are those that the daemon knows, or where it is not to be asked, those that have rule files.
func (t *typed) vms() (all []string) {
	add := func(name, explanation string) {
		if plainName.MatchString(name) {
			all = append(all, name+"\t"+explanation)
		}
	}
	status, err := control.NewClient(t.socket).AppVMs(t.ctx)
	if answers := t.asRoot(err); answers != nil {
		return answers
	}
	if err != nil {
		dir := cmp.Or(t.rulesDir, defaults.RulesDir)
		set, err := rules.Read(dir, filepath.Join(dir, defaults.TemplateName))
		if err != nil {
			return nil
		}
		for _, file := range set.Files {
			add(file.Name, file.Addr.String())
		}
		return all
	}
	for _, vm := range status.VMs {
		add(vm.Name, terminal.Quote(vm.IP+", "+vm.State))
	}
	return all
}

// asRoot returns what root would be offered, if err says that only root may ask the daemon and sudo wants no password, as for
// Qubes' user: completion runs without the sudo in front of the command line. Else it returns nil.
func (t *typed) asRoot(err error) (answers []string) {
	if denied := (*control.PermissionError)(nil); !errors.As(err, &denied) || os.Geteuid() == 0 || t.asked {
		return nil
	}
	t.asked = true
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	said, err := exec.CommandContext(t.ctx, "sudo", append([]string{"-n", "--", self, "complete", "--"}, t.names...)...).Output()
	if err != nil {
		return nil
	}
	return strings.FieldsFunc(string(said), func(r rune) bool { return r == '\n' })
}

// hosts are those that a VM asked for and did not get, the newest first; for allow, those that no rule permits.
func (t *typed) hosts(vm string) (all []string) {
	denied, err := control.NewClient(t.socket).Denied(t.ctx, []string{vm}, time.Time{})
	if err != nil {
		return t.asRoot(err)
	}
	for _, vm := range denied {
		for _, host := range vm.Hosts {
			wanted := host.Reason == events.ReasonList || t.verb.name != "allow"
			if wanted && plainHost.MatchString(host.Host) {
				all = append(all, fmt.Sprintf("%s\trefused %d times, last %s",
					host.Host, host.Count, moment(host.Last)))
			}
		}
	}
	return all
}
