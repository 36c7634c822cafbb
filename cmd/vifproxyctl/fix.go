package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"vifproxy/internal/terminal"
)

// changed shows which lines of a file Fix has changed.
func (l *linter) changed(path string, before, after []byte) {
	if bytes.Equal(before, after) {
		return
	}
	l.warn("fixed %s:", path)
	old, new := strings.Split(string(before), "\n"), strings.Split(string(after), "\n")
	for _, edit := range difference(old, new) {
		l.fixed++
		fmt.Fprintf(l.stderr, "    %s\n", terminal.Quote(strings.TrimRight(edit, "\r")))
	}
	l.warnIfLost(path)
}

// difference returns the lines that are gone, with "- " in front, and those that are new, with "+ ". Of two that say the same
// Fix removes the later one, so each line of old is the next such one of new.
func difference(old, new []string) (edits []string) {
	added := func(lines []string) {
		for _, line := range lines {
			edits = append(edits, "+ "+line)
		}
	}
	for _, line := range old {
		i := slices.Index(new, line)
		if i < 0 {
			edits = append(edits, "- "+line)
			continue
		}
		added(new[:i])
		new = new[i+1:]
	}
	added(new)
	return edits
}
