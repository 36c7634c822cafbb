package nft

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

// What is said of an element is what nft lists.
func TestTextOfElements(t *testing.T) {
	EnterNamespace(t)
	m := Machines[0]
	m.LoadForeign(t)
	b := open(t, m)
	state := firewall.State{Bindings: []firewall.Binding{Personal, Social}, Guarded: []uint16{61007}, Fence: Wide(), Askers: Askers}
	Sync(t, b, state)
	listed := regexp.MustCompile(`(?s)elements = \{(.*?)\}`)
	with := 0
	for _, s := range ourSets {
		if !s.isFor(TestConfig) {
			continue
		}
		kind := "set"
		if s.to != nil {
			kind = "map"
		}
		table := strings.Fields(s.table)
		if len(table) == 1 {
			table = []string{"ip", s.table}
		}
		var want, got []string
		if found := listed.FindStringSubmatch(Run(t, "", "nft", "list", kind, table[0], table[1], s.name)); found != nil {
			for element := range strings.SplitSeq(found[1], ",") {
				want = append(want, strings.TrimSpace(element))
			}
		}
		for _, e := range b.conn.last.sets[s].sorted() {
			got = append(got, s.text(e))
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s %s: %q, want %q", s.table, s.name, got, want)
		}
		with += min(len(want), 1)
	}
	if with < len(ourSets)-6 {
		t.Errorf("only %d of %d sets have elements: this shows little", with, len(ourSets))
	}
}
