package doctor

import (
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/internal/defaults"
	"vifproxy/tinyproxy"
)

// A distribution that names an advisory in its change log has patched it, whatever the version; the others are one line.
func TestAdvisoriesPatchedByTheDistribution(t *testing.T) {
	root := t.TempDir()
	t.Setenv("PATH", root)
	dir := filepath.Join(root, "usr/share/doc/tinyproxy-bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := changelog(t.Context(), root, defaults.Tinyproxy); got != "" {
		t.Errorf("of no change log: %q", got)
	}
	file, err := os.Create(filepath.Join(dir, "changelog.Debian.gz"))
	if err != nil {
		t.Fatal(err)
	}
	packed := gzip.NewWriter(file)
	const text = "  * CVE-2023-49606 (Closes: #1070395)\n  * Fix a leak. (CVE-2022-40468)\n"
	if _, err := packed.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	changes := changelog(t.Context(), root, defaults.Tinyproxy)
	if changes != text {
		t.Fatalf("read %q", changes)
	}
	if other := changelog(t.Context(), root, "/usr/local/bin/tinyproxy"); other != "" {
		t.Errorf("another program has the package's change log: %q", other)
	}
	d := &doctor{}
	d.advisories(tinyproxy.Release{1, 11, 1}, changes)
	if len(d.findings) != 1 || d.findings[0].Level != Note || strings.Contains(d.findings[0].Text, "CVE-2023-49606") ||
		!strings.Contains(d.findings[0].Text, "CVE-2025-63938, CVE-2026-3945") || len(d.findings[0].Details) != 5 {
		t.Errorf("what is patched is told, or not all in one line: %+v", d.findings)
	}
	d = &doctor{}
	d.advisories(tinyproxy.Release{1, 11, 1}, "")
	if len(d.findings) != 2 || d.findings[0].Level != Wrong || !strings.Contains(d.findings[0].Remedy, "no change log tells") {
		t.Errorf("without a change log: %+v", d.findings)
	}
}

func TestEgress(t *testing.T) {
	for _, tt := range []struct {
		rules          string
		tcp, dns, icmp bool
	}{
		{"policy = drop", false, false, false},
		{"policy = accept", true, true, true},
		{"0000 = action=accept\npolicy = drop", true, true, true}, // what Qubes gives every new VM
		// What its window makes of "Limit outgoing connections".
		{"0000 = action=accept dsthost=site.example\n0001 = action=accept specialtarget=dns\n" +
			"0002 = action=accept proto=icmp\n0003 = action=drop\npolicy = drop", false, true, true},
		{"0000 = action=drop specialtarget=dns\n0001 = action=accept\npolicy = drop", true, false, true},
		{"0000 = action=drop proto=udp specialtarget=dns\n0001 = action=accept\npolicy = drop", true, true, true},
		{"0000 = action=drop\n0001 = action=accept\npolicy = accept", false, false, false},
		{"0010 = action=accept\n0002 = action=drop\npolicy = drop", false, false, false},
		{"0000 = action=accept proto=tcp dstports=443-443\npolicy = drop", true, false, false},
		{"0000 = action=drop proto=tcp dstports=443-443\n0001 = action=accept\npolicy = drop", true, true, true},
		{"0000 = action=accept proto=udp dstports=53-53\npolicy = drop", false, true, false},
		{"0000 = action=accept proto=udp dstports=1-100\npolicy = drop", false, true, false},
		{"0000 = action=accept proto=udp dstports=123-123\npolicy = drop", false, false, false},
		{"0000 = action=accept proto=icmp icmptype=8\npolicy = drop", false, false, true},
		{"0000 = action=drop proto=icmp icmptype=8\n0001 = action=accept proto=icmp\npolicy = drop",
			false, false, true},
		{"0000 = action=accept dst4=192.0.2.0/24\npolicy = drop", false, false, false},
		{"0000 = action=accept dst4=0.0.0.0/0\npolicy = drop", true, true, true},
		{"0000 = action=accept dst4=0.0.0.0/1\n0001 = action=accept dst4=128.0.0.0/1\npolicy = drop",
			true, true, true},
		{"0000 = action=accept dst6=::/0\npolicy = drop", false, false, false}, // proxies and vifs are IPv4
	} {
		rules, ok := parseQubesRules(tt.rules + "\n")
		if !ok {
			t.Errorf("no rules in %q", tt.rules)
		}
		got := [3]bool{rules.permits(tcpAnywhere), rules.permits(dns), rules.permits(icmp)}
		if got != [3]bool{tt.tcp, tt.dns, tt.icmp} {
			t.Errorf("tcp, dns, icmp %v with\n%s", got, tt.rules)
		}
	}
	if _, ok := parseQubesRules(""); ok {
		t.Error("nothing was taken for rules")
	}
}
