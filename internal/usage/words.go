package usage

import (
	"flag"
	"io"
	"regexp"
	"slices"
)

// FlagSet returns an empty flag set that prints nothing: what is wrong comes back as an error.
func FlagSet(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

// Given reports whether an option was on the command line.
func Given(f *flag.FlagSet, name string) (is bool) {
	f.Visit(func(f *flag.Flag) { is = is || f.Name == name })
	return is
}

// tailLines is how people write a number of lines for tail(1).
var tailLines = regexp.MustCompile(`^-n?([0-9]+)$`)

// Parse takes options wherever they stand, up to a "--", and returns the other words. Package flag on its own stops at the first
// word that is not an option.
func Parse(f *flag.FlagSet, args []string) (words []string, err error) {
	args = slices.Clone(args)
	for i, arg := range args {
		if m := tailLines.FindStringSubmatch(arg); m != nil && (i == 0 || args[i-1] != "-n") {
			args[i] = "-n=" + m[1]
		}
	}
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		rest := f.Args()
		if len(rest) == 0 {
			return words, nil
		}
		if before := len(args) - len(rest); before > 0 && args[before-1] == "--" {
			return append(words, rest...), nil
		}
		words, args = append(words, rest[0]), rest[1:]
	}
}
