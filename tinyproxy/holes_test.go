package tinyproxy

import (
	"strings"
	"testing"
)

func TestHoles(t *testing.T) {
	for version, open := range map[string]bool{
		"tinyproxy 1.10.0": true, "tinyproxy 1.11.1": true, "tinyproxy 1.11.1-12-gabcdef": true, "tinyproxy 1.9": true,
		"tinyproxy 1.11.2": false, "tinyproxy 1.11.10": false, "tinyproxy 1.12": false, "tinyproxy 2.0.0": false,
		"": false, "something else": false,
	} {
		got := strings.Join(Holes(version, "  * CVE-2022-40468\n"), "\n")
		if open != strings.Contains(got, "CVE-2023-49606") || open == (got == "") {
			t.Errorf("%s: %q", version, got)
		}
	}
	if got := Holes("tinyproxy 1.11.1", "  * CVE-2023-49606 (Closes: #1070395)\n"); got != nil {
		t.Errorf("what the package has patched: %q", got)
	}
}
