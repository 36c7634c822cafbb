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
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
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

	// Fingerprint is a digest of the text without comments, Port, Listen and Filter. Two configurations with the same
	// Fingerprint differ only in where they listen and which rules they read.
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

// configLineMax is the length that every supported version reads as one line. 1.10 has `char buffer[1024]` for line, newline
// and NUL (config_parse in src/conf.c), and takes the tail of a longer line for another directive. 1.11 has LINE_MAX, which is
// 2048.
const configLineMax = 1022

// defaultClients is the MaxClients of 1.11 (initialize_config_defaults). 1.10 requires the template to give one.
const defaultClients = 100

// Arguments as tinyproxy's STR and BOOL have them (src/conf.c).
var (
	stringArg = regexp.MustCompile(`^[ \t]+"([^"]+)"$`)
	lastArg   = regexp.MustCompile(`"([^"]+)"$`)
	boolArg   = regexp.MustCompile(`(?i)^[ \t]+(yes|on|no|off)$`)
)

// ParseConfig reads a rendered template as tinyproxy's config_parse does: one directive a line, names in upper or lower case.
// It leaves directives that it does not know for tinyproxy to judge. path is the template's, for messages.
//
// The text that it returns is for tinyproxy. It lacks what concerns the daemon alone: LogFile and Syslog (the daemon reads
// tinyproxy's output through a pipe), PidFile, User and Group (tinyproxy starts as its final user). LogLevel is Info, because
// the daemon reads what is logged. A removed line leaves a comment behind, so line numbers in tinyproxy's messages are the
// template's. The last lines say how tinyproxy reads filter lines, see Filter.Compiled.
func ParseConfig(path, rendered string) (c Config, text string, err error) {
	c.MaxClients, c.AnyPort = defaultClients, true
	var kept []string
	var reading []int // lines that say how filter lines are read, as indexes
	rest := sha256.New()
	type option struct {
		value string
		line  int
	}
	options := make(map[string]option) // of the filter, as last said
	for i, line := range strings.Split(strings.TrimSuffix(rendered, "\n"), "\n") {
		bad := func(what, remedy string) (Config, string, error) {
			return Config{}, "", fmt.Errorf("%s:%d: %s (%s)", TemplateName(path), i+1, what, remedy)
		}
		// C's isspace decides what leading and trailing white space is; a person does not see it.
		line = strings.Trim(line, " \t\v\f\r")
		if line == "" || line[0] == '#' {
			kept = append(kept, "#") // 1.11 takes an indented comment for a syntax error
			continue
		}
		if len(line) > configLineMax {
			return bad(fmt.Sprintf("line of %d bytes", len(line)),
				fmt.Sprintf("tinyproxy would cut it; write at most %d", configLineMax))
		}
		if strings.ContainsRune(line, 0) {
			return bad("NUL byte", "tinyproxy would not read what follows it; remove it")
		}
		name, arg := directive(line)
		var path string
		if m := stringArg.FindStringSubmatch(arg); m != nil {
			path = strings.Clone(m[1]) // a part of rendered would keep all of it in memory
		}
		// 1.11 ORs repeated ones. In 1.10 the last one counts, except for FilterDefaultDeny.
		if strings.HasPrefix(name, "filter") && name != "filter" {
			o := option{strings.ToLower(strings.Trim(arg, " \t")), i + 1}
			if boolArg.MatchString(arg) {
				o.value = strconv.FormatBool(isTrue(arg))
			}
			before, said := options[name]
			if said && before.value != o.value {
				return bad(fmt.Sprintf("%q contradicts line %d", line, before.line),
					"keep one of them, so that people and every tinyproxy read the same")
			}
			options[name] = o
		}
		keep, shared := true, true // in text, in Fingerprint
		written := line
		switch name {
		case "logfile", "pidfile":
			if path == "" {
				return bad(fmt.Sprintf("%q has no path", line), `write it in double quotes: LogFile "/path"`)
			}
			if name == "logfile" {
				c.LogFile = path
			} else {
				c.PidFile = path
			}
			keep = false
		case "user", "group", "syslog":
			keep = false
		case "port":
			if n, err := strconv.ParseUint(strings.Trim(arg, " \t"), 10, 16); err == nil {
				c.Port = uint16(n)
			}
			shared = false
		case "listen":
			if a, err := netip.ParseAddr(strings.Trim(arg, " \t")); err == nil {
				c.Listen = append(c.Listen, a)
			}
			shared = false
		case "filter":
			c.RulesFile, c.Filter.Enabled = path, path != ""
			shared = false
		case "filterdefaultdeny":
			c.Filter.DefaultDeny = c.Filter.DefaultDeny || isTrue(arg)
		case "filterextended":
			reading = append(reading, i)
			c.Filter.Extended = c.Filter.Extended || isTrue(arg)
		case "filtercasesensitive":
			reading = append(reading, i)
			c.Filter.CaseSensitive = c.Filter.CaseSensitive || isTrue(arg)
		case "filterurls":
			c.Filter.URLs = c.Filter.URLs || isTrue(arg)
		case "maxclients":
			// tinyproxy makes another number of one that is too large (get_long_arg). No machine serves so many, so the template is refused.
			if n, err := strconv.Atoi(strings.Trim(arg, " \t")); (err == nil || errors.Is(err, strconv.ErrRange)) && n > 0 {
				c.MaxClients, c.MaxClientsLine = n, i+1
			}
		case "errorfile", "defaulterrorfile", "statfile":
			if name == "defaulterrorfile" {
				c.Pages = append(c.Pages, "*")
			} else if code := strings.Fields(arg); name == "errorfile" && len(code) > 0 {
				c.Pages = append(c.Pages, strings.Clone(code[0]))
			}
			if m := lastArg.FindStringSubmatch(arg); m != nil {
				c.PageFiles = append(c.PageFiles, strings.Clone(m[1]))
			}
		case "connectport":
			c.AnyPort = false
			if n, err := strconv.ParseUint(strings.Trim(arg, " \t"), 10, 16); err == nil && n > 0 {
				c.ConnectPorts = append(c.ConnectPorts, uint16(n))
			}
		case "allow", "deny":
			if host := strings.Trim(arg, " \t\""); isHostName(host) {
				c.AccessNames = append(c.AccessNames, strings.Clone(host))
			}
		case "upstream":
			if r, ok := parseUpstream(arg); ok {
				c.Routes = append(c.Routes, r)
			}
		case "loglevel":
			if level, ok := parseLogLevel(arg); ok {
				c.LogLevel, written = level, "LogLevel Info" // refused CONNECTs are said at no other level
			}
		case "basicauth":
			c.BasicAuth = true
		case "bind", "bindsame":
			c.SetsSource = c.SetsSource || name == "bind" || isTrue(arg)
		case "filtertype":
			reading = append(reading, i)
			// 1.11.1 and 1.11.2 accept ERE, but compare with "ere" in lower case only: lines would silently be basic
			// expressions (handle_filtertype).
			line = strings.ToLower(line)
			written = line
			switch strings.ToLower(strings.Trim(arg, " \t")) {
			case "ere":
				c.Filter.Extended = true
			case "fnmatch":
				c.Filter.Fnmatch = true
			}
		}
		if !keep {
			written = "#"
		} else if shared {
			fmt.Fprintln(rest, line)
		}
		kept = append(kept, written)
	}
	rest.Sum(c.Fingerprint[:0])
	if c.Filter.DefaultDeny && c.Filter.URLs && len(c.Upstreams()) > 0 {
		return Config{}, "", fmt.Errorf("%s:%d: with an Upstream, FilterURLs lets anything pass that looks like a listed URL, "+
			"and the Upstream may read another host in it (remove FilterURLs and list hosts, or remove the Upstream)",
			TemplateName(path), options["filterurls"].line)
	}
	text = strings.Join(kept, "\n") + "\n"
	if compiled := c.Filter.Compiled(); compiled != c.Filter {
		for _, i := range reading {
			kept[i] = "#"
		}
		text = strings.Join(kept, "\n") + "\n" + compiled.directives()
	}
	return c, text, nil
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

// directive parts a trimmed line as config_parse does: the name ends at the first white space by C's isspace.
func directive(line string) (name, arg string) {
	if n := strings.IndexAny(line, " \t\v\f\r"); n >= 0 {
		line, arg = line[:n], line[n:]
	}
	return strings.ToLower(line), arg
}

// isTrue reports whether get_bool_arg takes an argument for true.
func isTrue(arg string) bool {
	m := boolArg.FindStringSubmatch(arg)
	if m == nil {
		return false
	}
	word := strings.ToLower(m[1])
	return word == "yes" || word == "on"
}

// TemplateName returns what messages call a template with this path.
func TemplateName(path string) string {
	if path == "" {
		return "built-in template"
	}
	return path
}
