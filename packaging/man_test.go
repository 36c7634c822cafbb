package packaging

import (
	"maps"
	"os"
	"os/exec"
	"regexp"
	"testing"
)

// Man pages, written by hand, and --help list the same options and verbs, with the same defaults.
func TestManPagesAgreeWithHelp(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ program, help, page, inHelp, inPage string }{
		{"vifproxyd", "--help", "man/vifproxyd.8",
			`(?m)^    --([a-z-]+)(?:=(\S+))?$`, `(?m)^\.It Fl -([a-z-]+)(?: Ns = Ns Ar (\S+))?$`},
		{"vifproxyctl", "help", "man/vifproxyctl.1",
			`(?m)^    --([a-z-]+)(?:=(\S+))? `, `(?m)^\.It Fl -([a-z-]+)(?: Ns = Ns Ar (\S+))?$`},
		{"vifproxyctl", "help", "man/vifproxyctl.1",
			`(?m)^    ([a-z][a-z-]+) (?:\[?([A-Z.]+)\]?)?  .*\.$`, `(?m)^\.It Cm ([a-z-]+)(?: (?:Op )?Ar (.+))?$`},
	} {
		out, err := exec.Command("go", "run", "../cmd/"+test.program, test.help).Output()
		if err != nil {
			t.Fatalf("%s %s: %v", test.program, test.help, err)
		}
		text, err := os.ReadFile(test.page)
		if err != nil {
			t.Fatal(err)
		}
		help, page := list(test.inHelp, string(out)), list(test.inPage, string(text))
		delete(page, "help") // an option that everybody expects, a verb that says this itself
		delete(help, "help")
		if len(help) == 0 || !maps.Equal(help, page) {
			t.Errorf("%s --help says %v,\n%s says %v", test.program, help, test.page, page)
		}
	}
}

// list finds names and what they take.
func list(pattern, text string) map[string]string {
	found := map[string]string{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found[m[1]] = regexp.MustCompile(`[ .]+`).ReplaceAllString(m[2], "")
	}
	return found
}

