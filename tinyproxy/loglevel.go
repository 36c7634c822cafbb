package tinyproxy

import (
	"bytes"
	"slices"
	"strings"
)

// LogLevel is what a template wants in the log: "critical", "error", "warning", "notice", "connect", "info"; "" is
// tinyproxy's default, which is info.
type LogLevel string

// quietest are the levels of tinyproxy's messages that are logged at each LogLevel but connect and info, as its output
// names them, each with those before it (src/log.c).
var quietest = []string{"EMERGENCY", "ALERT", "CRITICAL", "ERROR", "WARNING", "NOTICE"}

// parseLogLevel reads the argument of LogLevel (src/conf.c: any case).
func parseLogLevel(arg string) (LogLevel, bool) {
	word := strings.ToLower(strings.Trim(arg, " \t"))
	known := []string{"critical", "error", "warning", "notice", "connect", "info"}
	return LogLevel(word), slices.Contains(known, word)
}

// Wants reports whether a line of tinyproxy's output belongs into the log, as tinyproxy itself would decide (log_message
// in src/log.c). A line without a level does: it comes from the C library, or from tinyproxy before it has read its
// configuration.
func (l LogLevel) Wants(line []byte) bool {
	word, _, _ := bytes.Cut(line, []byte(" "))
	switch string(word) {
	case "INFO":
		return l == "info" || l == ""
	case "CONNECT":
		return l == "info" || l == "" || l == "connect"
	}
	of := slices.Index(quietest, string(word))
	limit := slices.Index(quietest, strings.ToUpper(string(l)))
	return of < 0 || limit < 0 || of <= limit
}
