// Package secret keeps passwords out of messages. A line of a template may hold one: of an Upstream, or BasicAuth. It is
// quoted in errors, which go to the journal, to `show` and to whoever may ask the daemon.
package secret

import "strings"

// harmless are the directives of tinyproxy 1.10 and 1.11 (src/conf.c) whose arguments are no secrets. A misspelt one
// may have been any.
var harmless = func() map[string]bool {
	all := map[string]bool{}
	for name := range strings.FieldsSeq(`allow anonymous bind bindsame connectport defaulterrorfile deny disableviaheader errorfile
		filter filtercasesensitive filterdefaultdeny filterextended filtertype filterurls group listen logfile loglevel
		maxclients maxrequestsperchild maxspareservers minspareservers pidfile port startservers statfile stathost syslog
		timeout user viaproxyname xtinyproxy`) {
		all[name] = true
	}
	return all
}()

const hidden = "…"

// Directive returns a line of a template as a message may show it: whole if its directive takes no secret, otherwise the
// name alone.
func Directive(line string) string {
	text := strings.TrimSpace(line)
	name, _, _ := strings.Cut(strings.ReplaceAll(text, "\t", " "), " ")
	switch {
	case text == "" || text[0] == '#' && !strings.Contains(text, "@"):
		return line
	case harmless[strings.ToLower(name)] && !strings.Contains(text, "@"):
		return line
	case strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz") != "":
		return hidden // part of a line, perhaps of its password
	case name == text:
		return line
	}
	return name + " " + hidden
}

// Text returns any text without what stands before its last "@", as in user:password@host.
func Text(text string) string {
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		return hidden + text[at:]
	}
	return text
}
