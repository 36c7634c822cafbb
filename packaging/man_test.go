package packaging

import (
	"maps"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// Man pages, written by hand, and --help list the same options and verbs, with the same defaults and arguments.
func TestManPagesAgreeWithHelp(t *testing.T) {
	t.Parallel()
	const option = `(?m)^\.It Fl -([a-z-]+)(?: Ns = Ns Ar (\S+))?$`
	daemon, ctl := read(t, "man/vifproxyd.8"), read(t, "man/vifproxyctl.1")
	daemonHelp, ctlHelp := help(t, "vifproxyd", "--help"), help(t, "vifproxyctl", "help")
	verbs := list(`(?m)^    ([a-z][a-z-]+)((?: [A-Z\[][A-Z.:|\[\]]*)*) +[A-Z][a-z].*\.$`, ctlHelp)
	for _, test := range []struct {
		what       string
		help, page map[string]string
	}{
		{"options of vifproxyd", list(`(?m)^    --([a-z-]+)(?:=(\S+))?$`, daemonHelp), list(option, daemon)},
		{"options of vifproxyctl", list(`(?m)^    --([a-z-]+)(?:=(\S+))? `, ctlHelp), list(option, ctl)},
		{"verbs of vifproxyctl", verbs, list(`(?m)^\.It Cm ([a-z-]+)(.*)$`, ctl)},
	} {
		if test.what == "options of vifproxyd" {
			delete(test.page, "help") // which does not list itself
		}
		for name := range test.page {
			if test.what == "verbs of vifproxyctl" { // their arguments by name alone, without syntax
				test.help[name], test.page[name] = names(test.help[name]), names(test.page[name])
			}
		}
		if len(test.help) == 0 || !maps.Equal(test.help, test.page) {
			t.Errorf("%s: --help says %v,\nthe man page says %v", test.what, test.help, test.page)
		}
	}
	for verb := range verbs {
		for name := range list(`--([a-z-]+)`, help(t, "vifproxyctl", "help", verb)) {
			if !regexp.MustCompile(`\.(It )?Fl -` + name + `\b`).MatchString(ctl) {
				t.Errorf("the man page knows no option --%s, which %s has", name, verb)
			}
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func help(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"run", "../cmd/" + program}, args...)...).Output()
	if err != nil {
		t.Fatalf("%s %v: %v", program, args, err)
	}
	return string(out)
}

// list finds names and what they take.
func list(pattern, text string) map[string]string {
	found := map[string]string{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found[m[1]] = strings.Join(m[2:], "")
	}
	return found
}

// names leaves of a synopsis the names of arguments.
func names(synopsis string) string {
	return strings.Join(regexp.MustCompile(`[A-Z]{2,}`).FindAllString(synopsis, -1), " ")
}
