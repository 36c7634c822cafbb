package main

import (
	"cmp"
	"context"
	"flag"

	"vifproxy/internal/usage"
)

// A verb is what vifproxyctl can do, as the command line names it. Command line, help, manual page and the completion of shells
// read it.
type verb struct {
	name, args  string
	summary     string // one line
	help        string // the rest of what there is to say
	least, most int    // number of arguments
	json        bool   // takes --json
	noJSON      string // what to do instead, for the error
	hidden      bool   // for the completion of shells, not for people

	// options defines the options of the verb in a flag set, and returns what does it by them.
	options func(*flag.FlagSet) action
}

// An action does what a verb is for.
type action func(context.Context, *call) error

// plain is for verbs without options.
func plain(do action) func(*flag.FlagSet) action {
	return func(*flag.FlagSet) action { return do }
}

// flagSet returns the options of the verb, without those of all verbs.
func (v verb) flagSet() *flag.FlagSet {
	f := usage.FlagSet(v.name)
	v.options(f)
	return f
}

// verbs returns all verbs, in the order of the help.
func verbs() []verb {
	return []verb{
		showVerb(), updateVerb(), startVerb(), stopVerb(), restartVerb(), killAllVerb(), killAllAndRestartVerb(), importVerb(), exportVerb(),
		explainVerb(), allowVerb(), denyVerb(), learnVerb(), checkVerb(), diffVerb(), reviewVerb(), deniedVerb(), watchVerb(), liveVerb(), logVerb(), clientVerb(),
		doctorVerb(), completeVerb(), versionVerb(), helpVerb(),
	}
}

// synonyms are words that people try, and the verbs that do what they mean.
var synonyms = map[string]string{
	"status": "show", "list": "show", "ls": "show", "reload": "update", "refresh": "update", "add": "allow", "remove": "deny",
	"rm": "deny", "revoke": "deny", "logs": "log", "lint": "check", "refused": "denied", "blocked": "denied", "test": "explain", "record": "learn", "unused": "review", "prune": "review",
}

// verbNamed returns the verb of this name. If there is none, the error proposes one.
func verbNamed(name string) (verb, error) {
	var known []string
	for _, v := range verbs() {
		if v.name == name {
			return v, nil
		}
		if !v.hidden {
			known = append(known, v.name)
		}
	}
	if meant := cmp.Or(synonyms[name], usage.Nearest(name, known)); meant != "" {
		return verb{}, usagef("there is no verb %q: did you mean `%s`?", name, meant)
	}
	return verb{}, usagef("there is no verb %q; see `vifproxyctl --help`", name)
}
