package main

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"vifproxy/internal/usage"
)

// An option is what a flag set has for people: names of one variable, such as -f and --follow, and what it is for.
type option struct {
	names []string // with their hyphens, the short one first
	value string   // what stands for its value; "" if it has none
	text  string
}

// optionsOf returns the options of a flag set in the order of their long names.
func optionsOf(f *flag.FlagSet) (all []option) {
	variables := map[flag.Value]int{}
	f.VisitAll(func(f *flag.Flag) {
		i, known := variables[f.Value]
		if !known {
			i = len(all)
			variables[f.Value] = i
			all = append(all, option{})
		}
		o := &all[i]
		o.names = append(o.names, usage.Dashed(f.Name))
		slices.SortFunc(o.names, func(a, b string) int { return len(a) - len(b) })
		if f.Usage != "" {
			o.value, o.text = flag.UnquoteUsage(f)
		}
	})
	slices.SortStableFunc(all, func(a, b option) int { return strings.Compare(a.long(), b.long()) })
	return all
}

func (o option) long() string { return o.names[len(o.names)-1] }

// synopsis returns the option as a line of usage has it: [-f|--follow], [--for=TIME].
func (o option) synopsis() string { return "[" + o.spelled("|") + "]" }

func (o option) spelled(between string) string {
	text := strings.Join(o.names, between)
	if o.value != "" {
		text += "=" + o.value
	}
	return text
}

// optionList returns options with what they are for, as a help text lists them.
func optionList(all []option) string {
	width := 0
	for _, o := range all {
		width = max(width, utf8.RuneCountInString(o.spelled(", ")))
	}
	var b strings.Builder
	for _, o := range all {
		b.WriteString(usage.Wrap(fmt.Sprintf("    %-*s  %s", width, o.spelled(", "), o.text), usage.Width, width+6))
	}
	return b.String()
}
