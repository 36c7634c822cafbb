package main

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/display"
	"vifproxy/internal/manpage"
	"vifproxy/rules"
)

var rewrite = flag.Bool("update", false, "write the manual page")

// The page in the package says what the program's help says: `make man` makes it.
func TestManPage(t *testing.T) {
	page := manpage.Page{Name: "vifproxyctl", Section: 1, Summary: "show and steer vifproxyd"}
	before, rest, _ := strings.Cut(overviewText(), "Verbs:\n")
	_, after, _ := strings.Cut(rest, "\n\n")
	page.Help(before)
	page.Head("Verbs")
	for _, v := range verbs() {
		if v.hidden {
			continue
		}
		var text bytes.Buffer
		if err := runHelp(t.Context(), &call{env: env{stdout: &text}, args: []string{v.name}}); err != nil {
			t.Fatal(err)
		}
		synopsis, rest, _ := strings.Cut(text.String(), "\n\n")
		page.Subhead(strings.TrimPrefix(strings.Join(strings.Fields(synopsis), " "), "Usage: vifproxyctl "))
		page.Text(rest)
	}
	page.Help(after)
	page.Head("See also")
	page.Text("vifproxy-rules(5), vifproxyd(8), tinyproxy.conf(5), /usr/share/doc/vifproxy\n")
	upToDate(t, "../../packaging/man/vifproxyctl.1", page.String())
}

// So does the page of rule files.
func TestManPageOfRuleFiles(t *testing.T) {
	page := manpage.Page{Name: "vifproxy-rules", Section: 5, Summary: "what AppVMs may reach by vifproxyd"}
	lead, rest, _ := strings.Cut(rules.Help, "\n\n")
	page.Head("Description")
	page.Text(lead)
	page.Help(rest)
	page.Head("See also")
	page.Text("vifproxyctl(1), vifproxyd(8), tinyproxy.conf(5), regex(7), /usr/share/doc/vifproxy\n")
	upToDate(t, "../../packaging/man/vifproxy-rules.5", page.String())
}

// The example in the help is what show prints.
func TestExampleOfShow(t *testing.T) {
	at := func(hour, minute, second int) time.Time {
		return time.Date(2024, 11, 23, hour, minute, second, 0, time.Local)
	}
	shown := display.Table([]control.VM{
		{Name: "bank", IP: "10.137.0.12", Interfaces: []string{"vif7.0"}, PID: 2214, Port: 61003, State: control.Running,
			Since: at(7, 31, 8), Confinement: &control.Confinement{}},
		{Name: "social", IP: "10.137.0.13", State: control.Waiting, Since: at(7, 30, 52)},
	})
	for line := range strings.Lines(shown) {
		if !strings.Contains(overview, "    "+line) {
			t.Errorf("missing in the help: %s", line)
		}
	}
}

// upToDate compares a file that is made from the program with what it should be, or makes it.
func upToDate(t *testing.T, path, want string) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not up to date: run `make man`. It should be\n%s", path, want)
	}
}
