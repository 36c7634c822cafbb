package tinyproxy

import "strings"

// obsoleteDirectives are directives without which 1.10 does not start. 1.11 and later ignore them, and log a warning for each
// at each start (HANDLE_FUNC (handle_obsolete) in src/conf.c of 1.11.0).
var obsoleteDirectives = map[string]bool{
	"startservers": true, "minspareservers": true, "maxspareservers": true, "maxrequestsperchild": true,
}

// WithoutObsolete returns a configuration without obsoleteDirectives. It leaves a comment in place of each, so line numbers in
// tinyproxy's messages stay the template's.
func WithoutObsolete(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if name, _ := directive(strings.TrimRight(line, "\n")); obsoleteDirectives[name] {
			line = "#\n"
		}
		kept.WriteString(line)
	}
	return kept.String()
}

// NeedsObsolete reports whether a program with this version may need obsoleteDirectives to start: it is 1.10, or does not say
// what it is.
func NeedsObsolete(version string) bool {
	r, ok := ParseVersion(version)
	return !ok || r[0] == 1 && r[1] == 10
}
