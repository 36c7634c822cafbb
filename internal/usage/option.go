package usage

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// An Option is what a flag set has for people: names of one variable, such as -f and --follow, and what it is for.
type Option struct {
	Names []string // with their hyphens, the short one first
	Value string   // what stands for its value; "" if it has none
	Text  string
}

// Options returns the options of a flag set in the order of their long names.
func Options(f *flag.FlagSet) (all []Option) {
	variables := map[flag.Value]int{}
	f.VisitAll(func(f *flag.Flag) {
		i, known := variables[f.Value]
		if !known {
			i = len(all)
			variables[f.Value] = i
			all = append(all, Option{})
		}
		o := &all[i]
		o.Names = append(o.Names, Dashed(f.Name))
		slices.SortFunc(o.Names, func(a, b string) int { return len(a) - len(b) })
		if f.Usage != "" {
			o.Value, o.Text = flag.UnquoteUsage(f)
		}
	})
	slices.SortStableFunc(all, func(a, b Option) int { return strings.Compare(a.Long(), b.Long()) })
	return all
}

// Long returns the long name, with its hyphens.
func (o Option) Long() string { return o.Names[len(o.Names)-1] }

// Synopsis returns the option as a line of usage has it: [-f|--follow], [--for=TIME].
func (o Option) Synopsis() string { return "[" + o.Spelled("|") + "]" }

// Spelled returns the names with a text between them, and what stands for the value.
func (o Option) Spelled(between string) string {
	text := strings.Join(o.Names, between)
	if o.Value != "" {
		text += "=" + o.Value
	}
	return text
}

// OptionList returns options with what they are for, as a help text lists them.
func OptionList(all []Option) string {
	width := 0
	for _, o := range all {
		width = max(width, utf8.RuneCountInString(o.Spelled(", ")))
	}
	var b strings.Builder
	for _, o := range all {
		b.WriteString(Wrap(fmt.Sprintf("    %-*s  %s", width, o.Spelled(", "), o.Text), Width, width+6))
	}
	return b.String()
}
