// Package usage says in plain words what is wrong with a command line, and lays out help texts.
//
// Concurrency: any goroutine may call anything here, but for a flag set that another one uses.
package usage

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// How package flag says it (Go 1.26).
var (
	undefined = regexp.MustCompile(`^flag provided but not defined: -(.*)$`)
	missing   = regexp.MustCompile(`^flag needs an argument: -(.*)$`)
	boolean   = regexp.MustCompile(`(?s)^invalid boolean value "(.*)" for -([a-z-]+): .*$`)
	invalid   = regexp.MustCompile(`(?s)^invalid value "(.*)" for flag -([a-z-]+): (.*)$`)
)

// Error returns an error of f.Parse(args) in plain words: it names the option as it was typed, and the known one that was meant. wants
// has, by the name of an option, what its value should be.
func Error(f *flag.FlagSet, args []string, err error, known []string, wants map[string]string) error {
	text := err.Error()
	if m := undefined.FindStringSubmatch(text); m != nil {
		typed := asTyped(args, m[1])
		if meant := Nearest(strings.TrimLeft(typed, "-"), known); meant != "" {
			return fmt.Errorf("there is no option %s: did you mean %s?", typed, Dashed(meant))
		}
		return fmt.Errorf("there is no option %s; see `%s --help`", typed, f.Name())
	}
	if m := missing.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s needs a value; see `%s --help`", Dashed(m[1]), f.Name())
	}
	if m := boolean.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s takes no value: write it without =%s", Dashed(m[2]), m[1])
	}
	if m := invalid.FindStringSubmatch(text); m != nil {
		reason := m[3]
		if want := wants[m[2]]; want != "" {
			reason = "want " + want
		}
		return fmt.Errorf("%s=%s: %s", Dashed(m[2]), m[1], reason)
	}
	return err
}

// asTyped returns the option of this name as it is in args.
func asTyped(args []string, name string) string {
	for _, arg := range args {
		typed, _, _ := strings.Cut(arg, "=")
		if strings.HasPrefix(arg, "-") && strings.TrimLeft(typed, "-") == name {
			return typed
		}
	}
	return Dashed(name)
}

// Dashed returns the name of an option with its hyphens.
func Dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// Names returns the names of all flags of f, without those that are excluded.
func Names(f *flag.FlagSet, excluded ...string) (names []string) {
	f.VisitAll(func(f *flag.Flag) {
		if !slices.Contains(excluded, f.Name) {
			names = append(names, f.Name)
		}
	})
	return names
}
