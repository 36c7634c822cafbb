package main

import (
	"os"
	"strings"
	"testing"

	"vifproxy/internal/usage"
)

// Help, manual page and completion have each option of each verb, since they read the verb's own flag set.
func TestOptionsAreEverywhere(t *testing.T) {
	page, err := os.ReadFile("../../packaging/man/vifproxyctl.1")
	if err != nil {
		t.Fatal(err)
	}
	_, sections, _ := strings.Cut(string(page), `.SH "VERBS"`)
	manual := map[string]string{}
	for _, section := range strings.Split(sections, ".SS ")[1:] {
		name, _, _ := strings.Cut(strings.Trim(section, `"`), " ")
		manual[strings.ReplaceAll(strings.TrimRight(name, "\"\n"), `\-`, "-")] = strings.ReplaceAll(section, `\-`, "-")
	}
	for _, v := range verbs() {
		if v.hidden {
			continue
		}
		var completed strings.Builder
		c := &call{env: env{stdout: &completed}, args: []string{v.name, "-"}}
		if err := runComplete(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for _, o := range usage.Options(v.flagSet()) {
			if o.Text == "" {
				t.Errorf("%s: nothing says what %s is for", v.name, o.Long())
			}
			if help := v.helpText(); !strings.Contains(help, o.Synopsis()) || !strings.Contains(help, "\n    "+o.Spelled(", ")) {
				t.Errorf("%s --help does not have %s", v.name, o.Long())
			}
			if !strings.Contains(manual[v.name], "\n.B "+o.Spelled(", ")) {
				t.Errorf("vifproxyctl(1) does not have %s of %s", o.Long(), v.name)
			}
			if !strings.Contains(completed.String(), o.Long()) {
				t.Errorf("completion does not offer %s of %s", o.Long(), v.name)
			}
		}
	}
}
