package tinyproxy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

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
	p := parser{c: Config{MaxClients: defaultClients, AnyPort: true}, set: map[string]setting{}, shared: sha256.New()}
	for i, line := range strings.Split(strings.TrimSuffix(rendered, "\n"), "\n") {
		if err := p.line(i+1, line); err != nil {
			return Config{}, "", fmt.Errorf("%s:%d: %w", TemplateName(path), i+1, err)
		}
	}
	p.shared.Sum(p.c.Fingerprint[:0])
	if p.c.Filter.DefaultDeny && p.c.Filter.URLs && len(p.c.Upstreams()) > 0 {
		return Config{}, "", fmt.Errorf("%s:%d: with an Upstream, FilterURLs lets anything pass that looks like a listed URL, "+
			"and the Upstream may read another host in it (remove FilterURLs and list hosts, or remove the Upstream)",
			TemplateName(path), p.set["filterurls"].line)
	}
	return p.c, p.text(), nil
}

// A parser reads a rendered template line by line.
type parser struct {
	c       Config
	lines   []string           // for tinyproxy, one for each line of the template
	reading []int              // those that say how filter lines are read, as indexes of lines
	set     map[string]setting // how options of the filter were last set
	shared  hash.Hash          // of what all proxies of the template have in common
}

// A setting is the value of an option, and the line that has set it.
type setting struct {
	value string
	line  int
}

// line reads the line with this number.
func (p *parser) line(number int, line string) error {
	// C's isspace decides what leading and trailing white space is; a person does not see it.
	line = strings.Trim(line, " \t\v\f\r")
	switch {
	case line == "" || line[0] == '#':
		p.lines = append(p.lines, "#") // 1.11 takes an indented comment for a syntax error
		return nil
	case len(line) > configLineMax:
		return fmt.Errorf("line of %d bytes (tinyproxy would cut it; write at most %d)", len(line), configLineMax)
	case strings.ContainsRune(line, 0):
		return errors.New("NUL byte (tinyproxy would not read what follows it; remove it)")
	}
	name, arg := directive(line)
	// 1.11 ORs repeated ones. In 1.10 the last one counts, except for FilterDefaultDeny.
	if strings.HasPrefix(name, "filter") && name != "filter" {
		now := setting{strings.ToLower(strings.Trim(arg, " \t")), number}
		if boolArg.MatchString(arg) {
			now.value = strconv.FormatBool(isTrue(arg))
		}
		if before, again := p.set[name]; again && before.value != now.value {
			return fmt.Errorf("%q contradicts line %d (keep one of them, so that people and every tinyproxy read the same)", line, before.line)
		}
		p.set[name] = now
	}
	if name == "upstream" { // with a password perhaps, so it is not quoted
		route, ok := parseUpstream(arg)
		if !ok {
			return errors.New("an Upstream that tinyproxy does not read, or not as it looks (write Upstream http HOST:PORT, " +
				"with the site in quotes behind it if it is for one, or Upstream none \"SITE\"; nothing else may stand in the line)")
		}
		p.c.Routes = append(p.c.Routes, route)
	}
	if err := p.servesNobody(line, name, strings.Trim(arg, " \t")); err != nil {
		return err
	}
	written, shared := line, true // for tinyproxy, and whether all proxies of the template have it
	switch name {
	case "logfile", "pidfile":
		path := quotedArg(arg)
		if path == "" {
			return fmt.Errorf("%q has no path (write it in double quotes: LogFile \"/path\")", line)
		}
		if name == "logfile" {
			p.c.LogFile = path
		} else {
			p.c.PidFile = path
		}
		written, shared = "#", false
	case "user", "group", "syslog":
		written, shared = "#", false
	case "port", "filter":
		shared = false
	case "listen":
		shared = len(p.c.Listen) > 0 // the first is the AppVM's gateway
	case "loglevel":
		if level, ok := parseLogLevel(arg); ok {
			p.c.LogLevel, written = level, "LogLevel Info" // refused CONNECTs are said at no other level
		}
	case "filtertype":
		// 1.11.1 and 1.11.2 accept ERE, but compare with "ere" in lower case only: lines would silently be basic expressions
		// (handle_filtertype).
		line = strings.ToLower(line)
		written = line
	}
	p.note(number, name, arg)
	if shared {
		fmt.Fprintln(p.shared, line)
	}
	p.lines = append(p.lines, written)
	return nil
}

// servesNobody returns an error for a directive that tinyproxy accepts, and with which no request succeeds: it accepts no connection, or ends,
// or the daemon does not start it.
func (p *parser) servesNobody(line, name, value string) error {
	switch {
	case name == "maxclients" && value != "" && strings.Trim(value, "0") == "":
		return fmt.Errorf("%q serves nobody (write 1 or more)", line)
	case name == "port" && p.c.Port != 0:
		return fmt.Errorf("%q is a second Port (write \"Port {port}\", and no other Port)", line)
	case name == "filter" && p.c.RulesFile != "":
		return fmt.Errorf("%q is a second Filter (write Filter \"{rules_file}\", and no other Filter)", line)
	case name == "listen":
		again, err := netip.ParseAddr(value)
		// The first may be unspecified because it stands for any address, see policy.ConfigOf.
		same := func(a netip.Addr) bool { return a == again || a.Is4() && again.Is4() && again.IsUnspecified() }
		if err == nil && slices.ContainsFunc(p.c.Listen, same) {
			return fmt.Errorf("%q takes the same port of the same address once more (write Listen {bind_ip} once, and remove this line)", line)
		}
	}
	return nil
}

// note takes a directive into the Config.
func (p *parser) note(number int, name, arg string) {
	c, value := &p.c, strings.Trim(arg, " \t")
	switch name {
	case "port":
		if n, err := strconv.ParseUint(value, 10, 16); err == nil {
			c.Port = uint16(n)
		}
	case "listen":
		if a, err := netip.ParseAddr(value); err == nil {
			c.Listen = append(c.Listen, a)
		}
	case "filter":
		c.RulesFile = quotedArg(arg)
		c.Filter.Enabled = c.RulesFile != ""
	case "filterdefaultdeny":
		c.Filter.DefaultDeny = c.Filter.DefaultDeny || isTrue(arg)
	case "filterextended":
		p.reading = append(p.reading, number-1)
		c.Filter.Extended = c.Filter.Extended || isTrue(arg)
	case "filtercasesensitive":
		p.reading = append(p.reading, number-1)
		c.Filter.CaseSensitive = c.Filter.CaseSensitive || isTrue(arg)
	case "filtertype":
		p.reading = append(p.reading, number-1)
		switch strings.ToLower(value) {
		case "ere":
			c.Filter.Extended = true
		case "fnmatch":
			c.Filter.Fnmatch = true
		}
	case "filterurls":
		c.Filter.URLs = c.Filter.URLs || isTrue(arg)
	case "maxclients":
		// tinyproxy makes another number of one that is too large (get_long_arg). No machine serves so many, so the template is refused.
		if n, err := strconv.Atoi(value); (err == nil || errors.Is(err, strconv.ErrRange)) && n > 0 {
			c.MaxClients, c.MaxClientsLine = n, number
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
		if n, err := strconv.ParseUint(value, 10, 16); err == nil && n > 0 {
			c.ConnectPorts = append(c.ConnectPorts, uint16(n))
		}
	case "allow", "deny":
		if host := strings.Trim(arg, " \t\""); isHostName(host) {
			c.AccessNames = append(c.AccessNames, strings.Clone(host))
		}
	case "basicauth":
		c.BasicAuth = true
	case "bind", "bindsame":
		c.SetsSource = c.SetsSource || name == "bind" || isTrue(arg)
	}
}

// text returns the configuration for tinyproxy.
func (p *parser) text() string {
	compiled := p.c.Filter.Compiled()
	if compiled == p.c.Filter {
		return strings.Join(p.lines, "\n") + "\n"
	}
	for _, i := range p.reading {
		p.lines[i] = "#"
	}
	return strings.Join(p.lines, "\n") + "\n" + compiled.directives()
}

// directive parts a trimmed line as config_parse does: the name ends at the first white space by C's isspace.
func directive(line string) (name, arg string) {
	if n := strings.IndexAny(line, " \t\v\f\r"); n >= 0 {
		line, arg = line[:n], line[n:]
	}
	return strings.ToLower(line), arg
}

// quotedArg returns an argument in quotation marks, without them; "" if it is not one.
func quotedArg(arg string) string {
	if m := stringArg.FindStringSubmatch(arg); m != nil {
		return strings.Clone(m[1]) // a part of the template would keep all of it in memory
	}
	return ""
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
