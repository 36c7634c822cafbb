package backend

import (
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/tracking"
)

// open opens the backend of a machine.
func open(t testing.TB, m Machine) firewall.Backend {
	t.Helper()
	InNamespace(t)
	b, err := Open(t.Context(), Quiet, m.Kind, TestConfig)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func init() { tracking.Places = func() int { return 65536 } } // the same on every machine

// trackAtMost has connection tracking have so many places, as far as bounds depend on it.
func trackAtMost(n int) (restore func()) {
	before := tracking.Places
	tracking.Places = func() int { return n }
	return func() { tracking.Places = before }
}
