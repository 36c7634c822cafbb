package nft

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

// A transaction prepared for what the kernel no longer holds must fail as a whole.
func TestStaleSnapshot(t *testing.T) {
	EnterNamespace(t)
	m := Machines[0]
	m.LoadForeign(t)
	b := open(t, m)
	Bind(t, b, Personal)
	stale, err := b.conn.read()
	if err != nil {
		t.Fatal(err)
	}
	m.Shell(t, "nft delete table ip qubes")
	m.LoadForeign(t) // Qubes restarted its firewall; our jump's handle is gone
	before := m.Rules(t)
	if err := b.load(stale, firewall.State{Bindings: []firewall.Binding{Social}}); err == nil {
		t.Error("no error")
	}
	if got := m.Rules(t); got != before {
		t.Errorf("rules changed:\n%s", Diff(before, got))
	}
	Bind(t, b, Social)
	if n := Bind(t, b, Social); n != 0 {
		t.Errorf("%d writes with nothing to do", n)
	}
}

// After an error, as here on a socket that has gone bad, the next Sync works.
func TestConnectionLost(t *testing.T) {
	EnterNamespace(t)
	b := open(t, Machines[1])
	b.conn.Socket.Close()
	if _, err := b.Sync(t.Context(), firewall.State{Bindings: []firewall.Binding{Personal}}, func() {}); err == nil {
		t.Error("no error")
	}
	if n := Bind(t, b, Personal); n != 3 {
		t.Errorf("%d writes instead of 3", n)
	}
}

// A foreign rule that leads to our chain keeps it from being deleted, but not the rest.
func TestRemoveWhileReferred(t *testing.T) {
	EnterNamespace(t)
	m := Machines[0]
	m.LoadForeign(t)
	b := open(t, m)
	Bind(t, b, Personal)
	m.Shell(t, "nft add rule ip qubes input jump vifproxy-input")
	if err := b.Remove(t.Context()); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("error %v", err)
	}
	if got := m.Rules(t); strings.Contains(got, "dnat") || strings.Contains(got, "@vifproxy") {
		t.Errorf("still there:\n%s", got)
	}
}

// The log names what another program did.
func TestDriftIsLogged(t *testing.T) {
	EnterNamespace(t)
	m := Machines[1]
	b := open(t, m)
	var out bytes.Buffer
	b.log = slog.New(slog.NewTextHandler(&out, nil))
	m.Shell(t, "nft add rule ip vifproxy input drop")
	Bind(t, b)
	if got := out.String(); !strings.Contains(got, "rule vifproxy input: handle") {
		t.Errorf("log: %s", got)
	}
}
