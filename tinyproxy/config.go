// Package tinyproxy knows tinyproxy's language, in every version from 1.10 to 1.11.2: its configuration, its filter lines,
// its exit statuses, its log lines, its versions. A Judge asks a real tinyproxy what only that can know. Package
// tinyproxy/process runs the proxies that serve AppVMs.
//
// Concurrency: all that is exported may be used from any goroutine, and different values at the same time. Of one value, only
// Identities and Requests may be used by several goroutines at once.
package tinyproxy

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Config is the facts in a rendered template that decide how a proxy is handled. Every policy and every running proxy has
// one, so it keeps no more text than it needs.
type Config struct {
	LogFile      string       // where the template wants the log; "" for no place in particular
	PidFile      string       // where the template wants the pid; "" if it wants none
	Port         uint16       // listening port; 0 if there is none
	Listen       []netip.Addr // listening addresses; none means every address of the machine
	RulesFile    string       // the file that tinyproxy reads as its filter; "" if it filters nothing
	Filter       Filter
	LogLevel     LogLevel // what the template wants in the log; tinyproxy itself logs everything
	BasicAuth    bool     // clients must send a user and a password
	Pages        []string // status codes for which the template names pages; "*" for all
	ConnectPorts []uint16 // ports of ConnectPort, which CONNECT may go to
	AnyPort      bool     // there is no ConnectPort: CONNECT may go to every port
	Routes       []Route  // the lines of Upstream, in the order of the template
	AccessNames  []string // host names in the lines of Allow and Deny; not those that begin with a dot

	// What else decides how the proxy is confined.
	MaxClients     int      // served at a time
	MaxClientsLine int      // of the template; 0 if tinyproxy's default is in force
	PageFiles      []string // files that tinyproxy reads while it serves: its pages
	SetsSource     bool     // the template sets the source address of outgoing connections

	// Fingerprint is a digest of the text without comments, Port, the first Listen and Filter. Two configurations with the same
	// Fingerprint differ only in where they listen first and which rules they read.
	Fingerprint [sha256.Size]byte
}

// A Filter says how tinyproxy reads the lines of its filter file. Comparable.
type Filter struct {
	Enabled       bool // there is a filter file
	DefaultDeny   bool // its lines permit; otherwise they forbid
	Extended      bool // lines are POSIX extended regular expressions; otherwise basic ones
	Fnmatch       bool // lines are fnmatch(3) patterns, whatever Extended says
	CaseSensitive bool
	URLs          bool // lines match whole URLs; otherwise host names
}

// AllowsByLine reports whether a line permits the hosts that it matches. Otherwise a line forbids them, or matches whole URLs.
func (f Filter) AllowsByLine() bool { return f.DefaultDeny && !f.URLs }

// Compiled returns the filter that tinyproxy gets. The daemon compiles the lines of a white list of hosts to extended
// expressions, whatever the language of the template is, because fnmatch cannot say which characters a '*' stands for.
func (f Filter) Compiled() Filter {
	if f.AllowsByLine() {
		f.CaseSensitive = f.CaseSensitive || f.Fnmatch
		f.Extended, f.Fnmatch = true, false
	}
	return f
}

// A FilterLine is one line of the filter file.
type FilterLine struct {
	Text   string // as tinyproxy reads it
	Number int    // of the line in the user's file that it comes from, for messages
	Part   string // the path of that file, if it is a list that the rule file includes
	Source string // the line as that file has it
}

// Where returns where the line is that it comes from. rulesPath is the path of the rule file.
func (l FilterLine) Where(rulesPath string) string {
	return fmt.Sprintf("%s:%d", cmp.Or(l.Part, rulesPath), l.Number)
}

// Paths are the files of a proxy as its template has to name them.
type Paths struct{ LogFile, PidFile, RulesFile string }

// HasPage reports whether the template names a page for a status code.
func (c Config) HasPage(code string) bool {
	return slices.Contains(c.Pages, code) || slices.Contains(c.Pages, "*")
}

// ConnectTo returns the lines to append to a configuration so that CONNECT may go to more ports. Without any ConnectPort,
// CONNECT may go to all ports already, and a first ConnectPort would close the others (check_allowed_connect_ports in
// src/connect-ports.c of 1.11).
func (c Config) ConnectTo(ports []uint16) string {
	if c.AnyPort {
		return ""
	}
	var lines strings.Builder
	for _, port := range slices.Compact(slices.Sorted(slices.Values(ports))) {
		if !slices.Contains(c.ConnectPorts, port) {
			fmt.Fprintf(&lines, "ConnectPort %d\n", port)
		}
	}
	return lines.String()
}

// TemplateName returns what messages call a template with this path.
func TemplateName(path string) string {
	if path == "" {
		return "built-in template"
	}
	return path
}
