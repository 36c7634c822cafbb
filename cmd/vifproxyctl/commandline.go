package main

import (
	"context"
	"flag"
	"fmt"
	"slices"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/usage"
)

// A usageError is a mistake in the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// general has the options of all verbs.
type general struct {
	socket              string
	json, help, version bool
}

// define adds the options to a flag set.
func (g *general) define(f *flag.FlagSet) {
	f.StringVar(&g.socket, "socket", defaults.ControlSocket, "`PATH` of the control socket of vifproxyd ("+defaults.ControlSocket+")")
	f.BoolVar(&g.json, "json", false, "print JSON, of most verbs an array of VMs")
	f.BoolVar(&g.help, "help", false, "explain vifproxyctl, or only the VERB")
	f.BoolVar(&g.help, "h", false, "")
	f.BoolVar(&g.version, "version", false, "print the version")
}

// invoke reads a command line and does what it asks for.
func (e env) invoke(args []string) error {
	// Options may stand before the verb. Therefore all of them are read by a set with the options of every verb first.
	var g general
	every := everyOption(&g)
	words, err := usage.Parse(every, args)
	if err != nil {
		return wrongOption(every, args, err)
	}
	switch {
	case g.version:
		words = []string{"version"}
	case len(words) == 0 && g.help:
		words = []string{"help"}
	case len(words) == 0:
		return usagef("no command given: try `vifproxyctl show`, or `vifproxyctl --help` for a list")
	case g.help:
		words = []string{"help", words[0]}
	}
	v, err := verbNamed(words[0])
	if err != nil {
		return err
	}
	if foreign := v.foreign(every); foreign != "" {
		return usagef("%s does not take %s", v.name, usage.Dashed(foreign))
	}
	if err := v.checkArguments(words[1:]); err != nil {
		return err
	}
	if g.json && !v.json {
		return usagef("%s does not take --json%s", v.name, v.noJSON)
	}
	own := usage.FlagSet(v.name)
	new(general).define(own)
	do := v.options(own)
	if _, err := usage.Parse(own, args); err != nil {
		return err
	}
	return do(context.Background(), &call{
		env: e, socket: g.socket, client: control.NewClient(g.socket), json: g.json, args: words[1:],
	})
}

// everyOption returns a flag set with the options of all verbs, and the general ones, whose values go to g. It knows which options
// take a value before it is known which verb is meant.
func everyOption(g *general) *flag.FlagSet {
	every := usage.FlagSet("vifproxyctl")
	g.define(every)
	for _, v := range verbs() {
		v.flagSet().VisitAll(func(f *flag.Flag) {
			if every.Lookup(f.Name) == nil {
				every.Var(f.Value, f.Name, f.Usage)
			}
		})
	}
	return every
}

// isGeneral reports whether an option of this name is one of all verbs.
func isGeneral(name string) bool {
	f := usage.FlagSet("")
	new(general).define(f)
	return f.Lookup(name) != nil
}

// foreign returns the name of an option that was given and that the verb does not take, "" if there is none.
func (v verb) foreign(given *flag.FlagSet) (name string) {
	own := v.flagSet()
	given.Visit(func(f *flag.Flag) {
		if own.Lookup(f.Name) == nil && !isGeneral(f.Name) {
			name = f.Name
		}
	})
	return name
}

// checkArguments says what is wrong with the words behind the verb.
func (v verb) checkArguments(words []string) error {
	switch n := len(words); {
	case 0 < n && n < v.least:
		return usagef("%s needs more: vifproxyctl %[1]s %s", v.name, v.args)
	case n < v.least:
		return usagef("%s needs the name of a VM; `vifproxyctl show` lists them", v.name)
	case slices.Contains(words, "") && !v.hidden:
		return usagef("%s: an argument is empty; see `vifproxyctl %[1]s --help`", v.name)
	case n > v.most:
		return usagef("%s: too many arguments; see `vifproxyctl %[1]s --help`", v.name)
	}
	return nil
}

// wrongOption says what is wrong with an option, and which one that the verb takes was meant.
func wrongOption(every *flag.FlagSet, args []string, err error) error {
	known := usage.Names(every, "f", "n", "h")
	for _, word := range args {
		if v, unknown := verbNamed(word); unknown == nil {
			own := v.flagSet()
			every.Init("vifproxyctl "+v.name, flag.ContinueOnError)
			known = slices.DeleteFunc(known, func(name string) bool { return own.Lookup(name) == nil && !isGeneral(name) })
			break
		}
	}
	return usagef("%v", usage.Error(every, args, err, known, map[string]string{"n": "a number of lines, such as -n 20"}))
}
