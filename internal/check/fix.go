package check

import (
	"bytes"
	"slices"
	"strings"

	"vifproxy/rules"
)

// changed counts the lines of a file that Fix has changed.
func (k *checker) changed(path string, before, after []byte) {
	if bytes.Equal(before, after) {
		return
	}
	edits := Edits(before, after)
	k.Fixed += len(edits)
	old, _ := rules.ReadAll(path, before)
	fixed, _ := rules.ReadAll(path, after)
	k.Changed(path, edits, Changes(k.template, old, fixed))
}

// Edits returns the lines of a content that are gone, with "- " in front, and those that are new, with "+ ".
func Edits(before, after []byte) []string {
	return difference(strings.Split(string(before), "\n"), strings.Split(string(after), "\n"))
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
