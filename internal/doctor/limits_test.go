package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/rules"
)

// TestSumsOfLimits: what AppVMs together may take is told if a machine has less: connections that a proxy has closed and whose last words
// its AppVM does not take, and the memory of lists that are compared with whole URLs.
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
	closed := func(most string) map[string]string {
		return map[string]string{"sys/net/netfilter/nf_conntrack_max": "2048", "sys/net/ipv4/tcp_max_orphans": most}
	}
	const want = "1 AppVMs may together take 10400 connections that are closed, and whose last words their AppVM does not take, and " +
		"net.ipv4.tcp_max_orphans allows 2048"
	if got := found("^a$", "", 1, closed("2048")); got != want {
		t.Errorf("a small VM: %s", got)
	}
	if got := found("^a$", "", 1, closed("10400")); !strings.HasPrefix(got, "this machine has what 1 AppVMs may take") {
		t.Errorf("a small VM that allows as many: %s", got)
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
