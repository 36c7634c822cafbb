package rules

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vifproxy/internal/terminal"
)

// Whatever a person may have meant as a rule file or as the template is told, in whatever way its name is wrong.
func TestMisnamedFilesAreTold(t *testing.T) {
	dir := t.TempDir()
	meant := []string{"banking", "banking.10.137.0", "banking.10,137.0.11", "banking 10.137.0.11", "banking:10.137.0.11", "banking-10.137.0.11",
		"banking.IP", "banking.txt", "banking.", "banking.10.137.0.11.txt", "banking.10.137.0.11 (copy)", "b\x1b[2J.10.1.1"}
	templates := []string{"Config", "config.txt", "tinyproxy.conf"}
	others := []string{"README", "readme.txt", "notes.txt", "proxyctl.py", "banking.10.137.0.11~", ".banking.10.137.0.11.swp", "config",
		"banking.10.137.0.11", "banking.10.137.0.300"}
	for _, name := range slices.Concat(meant, templates, others) {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	texts := Unread(dir, 1)
	if len(texts) != 2 {
		t.Fatalf("%q", texts)
	}
	for i, names := range [][]string{meant, templates} {
		for _, name := range names {
			if !strings.Contains(texts[i], terminal.Quote(name)) {
				t.Errorf("%q is not in %s", name, texts[i])
			}
		}
	}
	for _, name := range others {
		if found := misnamedFiles(dir); slices.Contains(found, name) {
			t.Errorf("%q is told of in %q", name, found)
		}
	}
}
