package legacy

import "testing"

// Find finds the program of this machine.
func TestFind(t *testing.T) {
	t.Setenv("PATH", "/nowhere")
	if got := find("iptables-legacy"); got != "/usr/sbin/iptables-legacy" {
		t.Errorf("iptables-legacy: %q", got)
	}
	if got := find("nosuchprogram"); got != "" {
		t.Errorf("found %q", got)
	}
}
