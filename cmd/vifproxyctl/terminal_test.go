package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"vifproxy/control"
	"vifproxy/internal/usage"
)

// A usual table, and what is said below it, fit on a terminal of 80 columns, and each thing is said once.
func TestShowFitsOnATerminal(t *testing.T) {
	const columns = 80
	text := "/rw/config/tinyproxy/config:3: tinyproxy does not understand \"Timout 600\" (see tinyproxy.conf(5) of the installed version)"
	vms := []control.VM{
		{Name: "banking", IP: "10.137.0.111", State: control.Running, Interfaces: []string{"vif117.0"}, Since: time.Now(), Error: text},
		{Name: "disp1234-a-long-name", IP: "10.138.111.222", State: control.Refused, Interfaces: []string{"vif1234.0"}, Error: text},
	}
	var lines []string
	for _, line := range remarks(vms, func(control.VM) bool { return true }) {
		lines = append(lines, usage.Wrap(line, columns, 4))
	}
	shown := string(table(vms)) + strings.Join(lines, "")
	for line := range strings.Lines(shown) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if n := strings.Count(strings.Join(strings.Fields(shown), " "), text); n != 1 {
		t.Errorf("it is said %d times:\n%s", n, shown)
	}
}

func TestHelpFitsOnATerminal(t *testing.T) {
	for _, v := range append(verbs(), verb{}) {
		var text strings.Builder
		c := &call{stdout: &text}
		if v.name != "" {
			c.names = []string{v.name}
		}
		if err := help(c); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > usage.Width {
				t.Errorf("help %s: %d columns: %s", v.name, n, line)
			}
		}
	}
}
