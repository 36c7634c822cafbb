package rules

import (
	"regexp"
	"strings"

	"vifproxy/internal/usage"
	"vifproxy/rules/expression"
	"vifproxy/rules/shape"
)

// NamesMeant returns the entries of a list of names that a text can only have meant. A URL is its host, with its port if that is
// not the usual one. Two names are two entries, and a pattern that matches one name is that name. NamesMeant returns nil if the
// text can have meant several things.
func NamesMeant(text string) (names []string) {
	words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t,;", r) })
	for _, word := range words {
		host, clear := hostMeant(strings.Trim(word, `"'`))
		// An address beside a name is a line of /etc/hosts, or of a list of what is to be blocked.
		if !clear || host.IsAddr() && len(words) > 1 {
			return nil
		}
		names = append(names, host.String())
	}
	return names
}

// hostMeant returns the host that a word can only have meant.
func hostMeant(word string) (h Host, clear bool) {
	scheme, rest, isURL := strings.Cut(word, "://")
	if isURL && !isWeb(strings.ToLower(scheme)) {
		return h, false
	}
	if !isURL {
		rest = word
		if s := shape.Of(expression.Basic, word); s.Exact() && shape.LooksLikePattern(word) {
			return Host{Name: strings.ToLower(s.Domain), Below: s.Below}, strings.Contains(s.Domain, ".")
		}
	}
	authority, _, _ := strings.Cut(rest, "/")
	if shape.LooksLikePattern(authority) || strings.Contains(authority, "@") { // an e-mail address, a user
		return h, false
	}
	h, err := ParseHost(word)
	return h, err == nil && strings.Contains(h.Name, ".")
}

// withoutComment returns a line without its comment and the blanks around it.
func withoutComment(line string) string {
	for i := range len(line) {
		if line[i] == '#' && i > 0 && strings.IndexByte(" \t", line[i-1]) >= 0 {
			line = line[:i]
			break
		}
	}
	return strings.Trim(line, " \t")
}

// almostFormat matches a comment or a directive that was meant to say the format of a file.
var almostFormat = regexp.MustCompile(`(?i)^#[ \t]*:?[ \t]*format[ \t]*[:=]?[ \t]*(domains?|patterns?)[ \t]*$`)

// otherFormats are words that people write for the two formats.
var otherFormats = map[string]string{
	"names": "domains", "hosts": "domains", "hostnames": "domains", "regex": "patterns", "regexes": "patterns", "expressions": "patterns",
}

// directiveMeant returns the directive that a line was meant to be; "" if the line is right, is no directive, or is not clear.
func directiveMeant(line string) string {
	line = strings.Trim(line, " \t")
	meant := ""
	if m := almostFormat.FindStringSubmatch(line); m != nil {
		meant = "#: format " + strings.TrimSuffix(strings.ToLower(m[1]), "s") + "s"
	} else if rest, ok := strings.CutPrefix(line, "#:"); ok {
		meant = mistyped(strings.FieldsFunc(strings.ToLower(rest), func(r rune) bool { return strings.ContainsRune(" \t,=", r) }))
	}
	name, isInclude := strings.CutPrefix(meant, "#: include ")
	if strings.Join(strings.Fields(line), " ") == meant || isInclude && !strings.HasSuffix(line, name) { // another case is another list
		return ""
	}
	return meant
}

// mistyped returns the directive that these words were meant to be; "" if that is not clear.
func mistyped(words []string) string {
	if len(words) == 0 {
		return ""
	}
	format := func(word string) string {
		if other := otherFormats[word]; other != "" {
			return other
		}
		if meant := usage.Nearest(word, []string{"domain", "domains", "pattern", "patterns"}); meant != "" {
			return strings.TrimSuffix(meant, "s") + "s"
		}
		return ""
	}
	if words[0] == "ingress" { // the opposite of egress, and no slip of the pen
		return ""
	}
	verb := usage.Nearest(strings.TrimSuffix(words[0], ":"), []string{"format", "egress", "port", "include"})
	meant := "#: " + verb + " " + strings.Join(words[1:], " ")
	switch which := format(words[len(words)-1]); {
	case which != "" && (len(words) == 1 || len(words) == 2 && verb == "format"):
		meant = "#: format " + which
	case verb == "" || verb == "format":
		return ""
	}
	if verb == "include" && len(words) == 2 && isShared(words[1]) {
		return meant
	}
	if (&File{}).directive(strings.Fields(meant)[1:], 1, meant) != nil {
		return ""
	}
	return meant
}
