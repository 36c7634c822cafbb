package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/rules"
)

// TestSumsOfLimits: the memory that AppVMs together may take is told if a machine has less, and depends on how lines are compared.
func TestSumsOfLimits(t *testing.T) {
	found := func(list, directives string, appVMs int, settings map[string]string) string {
		d := &doctor{Config: Config{Root: t.TempDir()}}
		for path, value := range settings {
			path = filepath.Join(d.Root, "proc", path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		template, err := rules.ParseTemplate("config", "Listen {bind_ip}\nPort {port}\nFilter \"{rules_file}\"\nFilterDefaultDeny Yes\nConnectPort 443\nMaxClients 100\n"+directives)
		if err != nil {
			t.Fatal(err)
		}
		d.rules.Template = template
		for i := range appVMs {
			file, err := rules.ParseFile(fmt.Sprintf("/rules/vm%d.10.137.0.%d", i, i+1), []byte(list))
			if err != nil {
				t.Fatal(err)
			}
			d.rules.Files = append(d.rules.Files, file)
		}
		d.limits()
		var all []string
		for _, f := range d.findings {
			all = append(all, f.Text)
		}
		return strings.Join(all, "; ")
	}
	// AppVMs with long lists: their sum depends on how tinyproxy gets the lines.
	var lines strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&lines, "^host%d\\.bank\\.example$\n", i)
	}
	memory := func(directives string) (mib int) {
		got := found(lines.String(), directives, 10, map[string]string{"meminfo": "MemTotal: 400000 kB"})
		_, rest, _ := strings.Cut(got, "may together take ")
		if n, err := fmt.Sscanf(rest, "%d MiB of memory, ", &mib); n != 1 {
			t.Fatalf("%s: %v", got, err)
		}
		return mib
	}
	plain, urls := memory(""), memory("Upstream http 192.0.2.1:3128\n")
	if urls < plain+60 {
		t.Errorf("%d MiB with an Upstream, %d without", urls, plain)
	}
}
