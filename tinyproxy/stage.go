package tinyproxy

import (
	"regexp"
	"strings"
	"time"

	"vifproxy/internal/terminal"
)

// An Outcome is how a trial of a request ended.
type Outcome struct {
	Stage Stage
	// Status is what tinyproxy answered; 0 if it has not answered.
	Status int
	// Why is the C library's reason if a name does not resolve; otherwise "".
	Why  string
	Took time.Duration
}

// A Stage is how far a request came.
type Stage int

const (
	Asked     Stage = iota // tinyproxy has the request
	Resolving              // it looks up the addresses of the host, or of its Upstream
	Unknown                // there are none
	Opening                // it connects to one of them
	NoAnswer               // that fails
	Connected              // that succeeds
)

// TrialText returns the configuration of a trial, line by line like that of the AppVM's proxy. The log level is the one that
// shows each stage; the last LogLevel counts (handle_loglevel in src/conf.c of 1.11).
func TrialText(text string, unfiltered, tunnel bool) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range lines {
		switch name, _ := directive(line); name {
		case "allow", "deny", "basicauth", "loglevel":
			lines[i] = "#"
		case "connectport":
			if !tunnel {
				lines[i] = "#"
			}
		case "filter", "filterurls", "filterdefaultdeny":
			if unfiltered {
				lines[i] = "#"
			}
		}
	}
	return strings.Join(lines, "\n") + "\nLogLevel Info\n"
}

// stages are what tinyproxy logs at each stage: opensock in src/sock.c, connect_to_upstream and handle_connection in
// src/reqs.c of 1.11. 1.10 logs the same except for "returned".
var stages = []struct {
	Stage
	says *regexp.Regexp
}{
	{Unknown, regexp.MustCompile(`opensock: Could not retrieve (?:address )?info for [^ ]+(?:: (.*))?$`)},
	{NoAnswer, regexp.MustCompile(`opensock: Could not establish a connection to `)},
	{NoAnswer, regexp.MustCompile(`Could not connect to upstream proxy\.`)},
	{Connected, regexp.MustCompile(`Established connection to `)},
	{Opening, regexp.MustCompile(`opensock: getaddrinfo returned for `)},
	{Resolving, regexp.MustCompile(`opensock: opening connection to `)},
}

// StageOf returns the stage that a line of tinyproxy's log shows, and for Unknown the reason of the C library.
func StageOf(line string) (stage Stage, why string, ok bool) {
	for _, s := range stages {
		if m := s.says.FindStringSubmatch(line); m != nil {
			if len(m) > 1 {
				why = terminal.Escape(m[1])
			}
			return s.Stage, why, true
		}
	}
	return 0, "", false
}
