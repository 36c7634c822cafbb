package rules

import (
	"strings"
	"testing"

	"vifproxy/rules/expression"
)

// The example of the help is a rule file without a mistake, and each directive that it names is one.
func TestExampleOfTheHelp(t *testing.T) {
	_, text, _ := strings.Cut(Help, "Example:\n")
	text, _, _ = strings.Cut(text, "\n\n")
	f, err := ParseFile("/rules/banking.10.137.0.11", []byte(strings.ReplaceAll(text, "\n    ", "\n")[4:]+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !f.Names() || len(f.entries) != 4 || len(f.Ports) != 1 || len(f.Egress) != 1 {
		t.Errorf("%+v", f)
	}
	dir := t.TempDir()
	lists(t, dir, map[string]string{"lists.d/LIST": "", "lists.d/updates": ""})
	directives := 0
	for line := range strings.Lines(Help) {
		if line, ok := strings.CutPrefix(line, "    #: "); ok {
			line = strings.NewReplacer("PORT...", "22 8443", "CIDR:PORT", "192.168.1.5/32:22", "CIDR", "192.168.0.0/16").Replace(line)
			if _, err := ParseFile(dir+"/banking.10.137.0.11", []byte("#: "+line)); err != nil {
				t.Error(err)
			}
			directives++
		}
	}
	if directives != 10 { // four of them in examples
		t.Errorf("%d directives", directives)
	}
	for _, word := range []string{"511 bytes", "1 MiB", "up to 32 in all"} {
		if !strings.Contains(Help, word) {
			t.Errorf("no %q", word)
		}
	}
	if expression.LineMax != 511 || sizeMax != 1<<20 || PortsMax != 32 || widest4 != 8 || widest6 != 7 {
		t.Error("a bound has changed: the help says what it was")
	}
}
