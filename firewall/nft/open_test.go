package nft

import (
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/tracking"
)

// open returns a backend that keeps the empty state.
func open(t testing.TB, m Machine) *Backend {
	t.Helper()
	InNamespace(t)
	b := New(Quiet, TestConfig)
	if _, err := b.Sync(t.Context(), firewall.State{}, func() {}); err != nil {
		t.Fatal(err)
	}
	return b
}

func init() { tracking.Places = func() int { return 65536 } } // the same on every machine
