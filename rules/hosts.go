package rules

import (
	"regexp"
	"strings"
)

// oneHost is a pattern that is about one host name and no other.
var oneHost = regexp.MustCompile(`^\^((?:[A-Za-z0-9_-]+\\\.)+[A-Za-z0-9_-]+)\$$`)

// Hosts returns the host names that have a line of their own, in the order of the file, as examples of what the AppVM may reach.
// A line for several hosts or for an address is left out.
func (f File) Hosts() (hosts []string) {
	for _, line := range f.entries {
		name := line.Text
		if !f.domains {
			match := oneHost.FindStringSubmatch(line.Text)
			if match == nil {
				continue
			}
			name = strings.ReplaceAll(match[1], `\.`, ".")
		}
		if h, flaw := parseEntry(name); flaw == nil && !h.Below && !h.IsAddr() {
			hosts = append(hosts, h.Name)
		}
	}
	return hosts
}
