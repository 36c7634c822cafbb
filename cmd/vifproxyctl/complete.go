package main

import (
	"context"
	"math"
	"slices"
	"time"

	"vifproxy/internal/complete"
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
func runComplete(ctx context.Context, c *call) error {
	if len(c.args) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	for _, candidate := range language().Candidates(ctx, c.socket, c.args) {
		if err := say(c.stdout, "%s\n", candidate); err != nil {
			return nil
		}
	}
	return nil
}

// language returns what command lines may have: the verbs that people use, and their options.
func language() complete.Language {
	l := complete.Language{Values: map[string][]string{
		"FORMAT": settings.FormatNames(), "TIME": {"10m", "1h", "24h"}, "SITES": {propose.All}, "LINES": nil, "LIST": nil,
	}}
	optionsOf := func(v verb) []usage.Option {
		f := usage.FlagSet(v.name)
		new(general).define(f)
		if v.options != nil {
			v.options(f)
		}
		return slices.DeleteFunc(usage.Options(f), func(o usage.Option) bool { return o.Long() == "--json" && !v.json })
	}
	l.General = optionsOf(verb{})
	for _, v := range verbs() {
		if !v.hidden {
			l.Verbs = append(l.Verbs, complete.Verb{Name: v.name, Args: v.args, Summary: v.summary, Options: optionsOf(v)})
		}
	}
	return l
}
