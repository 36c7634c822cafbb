package tinyproxy

import (
	"bytes"
	"slices"
	"strings"
)

// A LogLevel is what a template wants in the log: "critical", "error", "warning", "notice", "connect", "info". "" is
// tinyproxy's default, which is info.
type LogLevel string

// quietest are the levels of messages below connect and info, as tinyproxy's output names them. At each LogLevel, tinyproxy
// logs the message level of that name and those before it (src/log.c).
var quietest = []string{"EMERGENCY", "ALERT", "CRITICAL", "ERROR", "WARNING", "NOTICE"}

// parseLogLevel reads the argument of LogLevel, in upper or lower case (src/conf.c).
func parseLogLevel(arg string) (LogLevel, bool) {
	word := strings.ToLower(strings.Trim(arg, " \t"))
	known := []string{"critical", "error", "warning", "notice", "connect", "info"}
	return LogLevel(word), slices.Contains(known, word)
}

// Wants reports whether a line of tinyproxy's output belongs in the log, as tinyproxy itself would decide (log_message in
// src/log.c). A line without a level does: it comes from the C library, or from tinyproxy before it has read its
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
