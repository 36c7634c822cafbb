package usage

import (
	"flag"
	"io"
	"testing"
)

func TestError(t *testing.T) {
	f := flag.NewFlagSet("program", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.String("rules-dir", "", "")
	f.Duration("drain", 0, "")
	f.Bool("clean", false, "")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--ruls-dir=/etc/x"}, "there is no option --ruls-dir: did you mean --rules-dir?"},
		{[]string{"-ruls-dir", "x"}, "there is no option -ruls-dir: did you mean --rules-dir?"},
		{[]string{"--frobnicate"}, "there is no option --frobnicate; see `program --help`"},
		{[]string{"--rules-dir"}, "--rules-dir needs a value; see `program --help`"},
		{[]string{"--drain=10"}, "--drain=10: want a time such as 10m"},
		{[]string{"--drain", "10"}, "--drain=10: want a time such as 10m"},
		{[]string{"--clean=maybe"}, "--clean takes no value: write it without =maybe"},
		{[]string{"-x"}, "there is no option -x; see `program --help`"},
	} {
		err := f.Parse(tt.args)
		if err == nil {
			t.Fatalf("%q is no mistake", tt.args)
		}
		if got := Error(f, tt.args, err, Names(f), map[string]string{"drain": "a time such as 10m"}).Error(); got != tt.want {
			t.Errorf("%q: got  %s\nwant %s", tt.args, got, tt.want)
		}
	}
}
