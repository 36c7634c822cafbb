package tinyproxy

import (
	"regexp"
	"strconv"
	"strings"
)

// Exit statuses of tinyproxy: src/main.c and src/filter.c, numbers from sysexits.h.
const (
	ExitFilter = 65 // EX_DATAERR: filter file, or a pattern in it
	ExitConfig = 70 // EX_SOFTWARE: configuration file
	ExitListen = 71 // EX_OSERR: cannot listen
)

// 1.10 prints it to stdout, 1.11 to stderr with ERROR.
var syntaxError = regexp.MustCompile(`^(?:ERROR: )?Syntax error on line ([0-9]+)$`)

// SyntaxErrorAt reads what tinyproxy says before ExitConfig, and returns the line of the configuration that it does not
// understand, from 1.
func SyntaxErrorAt(said string) (line int, ok bool) {
	m := syntaxError.FindStringSubmatch(said)
	if m == nil {
		return 0, false
	}
	line, _ = strconv.Atoi(m[1])
	return line, true
}

// Quoted returns the last lines that tinyproxy said, for the end of a message.
func Quoted(said []string) string {
	if len(said) == 0 {
		return " and said nothing"
	}
	const enough = 200 // bytes of a line
	parts := make([]string, len(said))
	for i, line := range said {
		parts[i] = strconv.Quote(line[:min(len(line), enough)])
	}
	return "; it said " + strings.Join(parts, ", ")
}
