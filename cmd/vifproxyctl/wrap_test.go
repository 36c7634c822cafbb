package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"vifproxy/control"
)

func TestWrap(t *testing.T) {
	for _, tt := range []struct {
		line  string
		width int
		want  string
	}{
		{"one two three", 0, "one two three\n"},
		{"one two three", 80, "one two three\n"},
		{"one two three", 9, "one two\n  three\n"},
		{"      → a remedy of words", 14, "      → a\n  remedy of\n  words\n"},
		{"a-word-that-is-longer-than-a-line b", 10, "a-word-that-is-longer-than-a-line\n  b\n"},
		{"", 10, "\n"},
	} {
		if got := wrap(tt.line, tt.width, 2); got != tt.want {
			t.Errorf("%q in %d columns: %q, want %q", tt.line, tt.width, got, tt.want)
		}
	}
}

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
		lines = append(lines, wrap(line, columns, 4))
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
