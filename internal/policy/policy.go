package policy

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/flaws"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/limits"
)

// A Policy is everything that decides what one AppVM's proxy lets through and where it listens, except its port. It is
// immutable. Two policies with the same key run the same proxy.
type Policy struct {
	Name      string     // of the AppVM, from its rule file
	Addr      netip.Addr // of the AppVM
	Bind      netip.Addr // the gateway, on which the proxy listens
	Template  rules.Template
	Config    tinyproxy.Config // of the template, rendered for no port and no files in particular
	Rules     []tinyproxy.FilterLine
	Egress    []rules.Egress        // what it may connect to in addition to the usual, sorted
	Ports     []rules.Port          // that its list opens and the template does not, sorted; Line 0 is for a time only
	Names     bool                  // its list consists of names
	RulesPath string                // the user's rule file, for messages
	Places    string                // that its sandbox depends on; the sandbox of a running process knows no others
	Binary    tinyproxy.Binary      // a replaced tinyproxy is a changed policy: the old one may be vulnerable
	Temporary map[string]rules.Host // those of Rules that are in no file: allowed for a time
	Findings  []string              // what is wrong with the rule file although it can be used
	Restarts  int                   // how often `restart` asked for a new process
	Ceiling   *rules.Ceiling        // that it is not beyond; nil if there is none
	Lesson    int                   // that it is for, see Learning; 0 for none

	// What follows from these: the addresses that the list permits by number, and why it permits any; "" if it does not.
	Listed     []netip.Addr
	AnyAddress string

	key      string
	compared *comparison
}

// An Input is what a policy is made of in addition to rule file and template. Comparable.
type Input struct {
	Bind     netip.Addr
	Binary   tinyproxy.Binary
	Restarts int
	Ceiling  *rules.Ceiling // what no list may go beyond; nil if there is none
}

// New returns the policy that file and template make for the proxy of an AppVM. temporary is what else it may reach. An error
// is about one of the inputs, in the words of the package that refused it.
func New(file rules.File, temporary []rules.Host, template rules.Template, in Input) (*Policy, error) {
	p := &Policy{
		Name: file.Name, Addr: file.Addr, Bind: in.Bind,
		Template: template, RulesPath: file.Path,
		Binary: in.Binary, Restarts: in.Restarts, Ceiling: in.Ceiling, Names: file.Names(), Egress: slices.Clone(file.Egress),
	}
	slices.SortFunc(p.Egress, func(a, b rules.Egress) int { return cmp.Compare(a.String(), b.String()) })
	var err error
	if p.Config, _, err = p.RenderAnywhere(); err != nil {
		return nil, err
	}
	f := p.Config.Filter
	if !f.DefaultDeny && file.Origin != rules.InFile {
		return nil, &rules.Error{Path: file.Path, Flaw: flaws.Flaw{
			Text:   "names what is permitted, and the template `config` says FilterDefaultDeny No, so it would be forbidden and all else permitted",
			Remedy: "write FilterDefaultDeny Yes into " + template.Path + ", or write a rule file"}}
	}
	reading := SyntaxOf(f)
	for _, finding := range LinterFor(f).Parsed(file) {
		p.Findings = append(p.Findings, finding.String())
	}
	if f.AllowsByLine() {
		file = file.With(reading, temporary)
	}
	for _, port := range file.Ports {
		if port.Line = max(port.Line, 0); !slices.Contains(p.Config.ConnectPorts, port.Number) {
			p.Ports = append(p.Ports, port)
		}
	}
	slices.SortStableFunc(p.Ports, func(a, b rules.Port) int { return cmp.Compare(a.Number, b.Number) })
	lines, err := file.Lines(reading)
	if err != nil {
		return nil, err
	}
	listed := make(map[string]bool, len(lines))
	p.Temporary = map[string]rules.Host{}
	for _, l := range lines {
		if addr, misleads := p.Config.MisleadsUpstream(l.Text); misleads && f.AllowsByLine() {
			return nil, &rules.Error{Path: cmp.Or(l.Part, file.Path), Line: l.Line,
				Flaw: flaws.Flaw{Text: tinyproxy.Misled(addr), Remedy: tinyproxy.NotMisled(addr)}}
		}
		if _, flaw := AsWritten(p.Config, l.Text); flaw != nil {
			return nil, &rules.Error{Path: cmp.Or(l.Part, file.Path), Line: l.Line, Flaw: *flaw}
		}
		switch {
		case l.Line > 0:
			listed[l.Text] = true
			p.Rules = append(p.Rules, tinyproxy.FilterLine{Text: l.Text, Number: l.Line, Part: l.Part, Source: l.Source})
		case !listed[l.Text]:
			p.Temporary[l.Text] = temporary[-1-l.Line].WithoutPort()
			listed[l.Text] = true
			p.Rules = append(p.Rules, tinyproxy.FilterLine{Text: l.Text})
		}
	}
	if p.Ceiling != nil {
		b, err := boundBy(p.Ceiling, template, f)
		if err == nil {
			p, err = b.limit(p)
		}
		if err != nil {
			return nil, err
		}
	}
	return p.sealed(), nil
}

// AsWritten returns a line as tinyproxy gets it.
func AsWritten(c tinyproxy.Config, line string) (string, *flaws.Flaw) {
	if !c.ComparesURLs() || line == "" {
		return line, nil
	}
	return expression.OfURL(line, c.Filter.Compiled().CaseSensitive)
}

// Written returns the lines as tinyproxy gets them, and what its configuration has to say in addition. All else compares lines with
// hosts. Several lines may have become one, which counts as the first of these.
func (p *Policy) Written() (lines []tinyproxy.FilterLine, more string) {
	if !p.Config.ComparesURLs() {
		return p.Rules, ""
	}
	var texts []string
	var from []tinyproxy.FilterLine
	for _, l := range p.Rules {
		text, flaw := AsWritten(p.Config, l.Text)
		if flaw != nil || text == "" { // New has refused it, or no host matches it
			continue
		}
		texts, from = append(texts, text), append(from, l)
	}
	joined, places := expression.JoinURLs(texts)
	for i, at := range places {
		if at == len(lines) {
			l := from[i]
			l.Text = joined[at]
			lines = append(lines, l)
		}
	}
	return lines, "FilterURLs Yes\n"
}

// Size returns how long its list is to its proxy.
func (p *Policy) Size() limits.Rules {
	texts := make([]string, len(p.Rules))
	for i, l := range p.Rules {
		texts[i] = l.Text
	}
	return SizeOf(p.Config, texts)
}

// SizeOf returns how long a list is to a proxy with this configuration. Each line counts by itself, also if tinyproxy gets several as one.
func SizeOf(c tinyproxy.Config, lines []string) limits.Rules {
	if c.ComparesURLs() {
		lines = slices.Clone(lines)
		for i := range lines {
			lines[i], _ = AsWritten(c, lines[i])
		}
	}
	return limits.SizeOf(lines)
}

// Render returns the configuration of a proxy with these files at this port, and its text.
func (p *Policy) Render(paths tinyproxy.Paths, port uint16) (tinyproxy.Config, string, error) {
	return tinyproxy.ParseConfig(p.Template.Path, p.Template.Render(rules.Values{
		Port: port, VMIP: p.Addr, BindIP: p.Bind,
		LogFile: paths.LogFile, PidFile: paths.PidFile, RulesFile: paths.RulesFile,
	}))
}

// RenderAnywhere returns a configuration, and its text, for uses in which files and port do not matter.
func (p *Policy) RenderAnywhere() (tinyproxy.Config, string, error) {
	return p.Render(anyFiles, anyPort)
}

// At returns the same policy for another gateway, and other places in the file system. It keeps a last good policy usable when
// the netvm's address changes, or what its sandbox depends on.
func (p *Policy) At(bind netip.Addr, places string) *Policy {
	if p.Bind == bind && p.Places == places {
		return p
	}
	moved := *p
	moved.Bind, moved.Places = bind, places
	moved.key, moved.compared = moved.digest(), &comparison{}
	return &moved
}

// Only returns the same policy with no temporary lines and ports but those of the given hosts. A last good policy must not
// keep what has expired.
func (p *Policy) Only(hosts map[rules.Host]time.Duration) *Policy {
	valid, open := map[rules.Host]bool{}, map[uint16]bool{}
	for host := range hosts {
		valid[host.WithoutPort()], open[host.Port] = true, true
	}
	gone := func(l tinyproxy.FilterLine) bool {
		host, temporary := p.Temporary[l.Text]
		return temporary && !valid[host]
	}
	closed := func(port rules.Port) bool { return port.Line == 0 && !open[port.Number] }
	if !slices.ContainsFunc(p.Rules, gone) && !slices.ContainsFunc(p.Ports, closed) {
		return p
	}
	less := *p
	less.Rules = slices.DeleteFunc(slices.Clone(p.Rules), gone)
	less.Ports = slices.DeleteFunc(slices.Clone(p.Ports), closed)
	return less.sealed()
}

// Key returns a text that is the same for two policies that run the same proxy.
func (p *Policy) Key() string { return p.key }

// Sealed returns a policy that was put together by hand, with what follows from its fields. For tests.
func Sealed(p Policy) *Policy { return p.sealed() }

func (p *Policy) sealed() *Policy {
	p.key, p.compared = p.digest(), &comparison{}
	p.Listed, p.AnyAddress = p.numbers()
	return p
}

// digest leaves out comments and line numbers, so that files that tinyproxy reads alike restart nothing.
func (p *Policy) digest() string {
	h := sha256.New()
	c := p.Config
	fmt.Fprintf(h, "%q %s %s %v %d %d %q\n", p.Name, p.Addr, p.Bind, p.Binary, p.Restarts, p.Lesson, p.Places)
	fmt.Fprintf(h, "%q %q %v\n%q\n", c.LogFile, c.PidFile, c.Filter, c.Fingerprint[:])
	for _, e := range p.Egress {
		fmt.Fprintf(h, "%s\n", e)
	}
	fmt.Fprintf(h, "%v\n", p.portNumbers())
	for _, l := range p.Rules {
		fmt.Fprintf(h, "%q\n", l.Text)
	}
	return string(h.Sum(nil))
}

// PermitsAll reports whether p lets through at least all that old did, so that connections made under old may live on. It says
// yes only if there is no doubt: template and gateway are the same, egress and ports were only added, and under default deny p's
// lines match all that old's did, or the other way round under default allow.
func (p *Policy) PermitsAll(old *Policy) bool {
	f := p.Config.Filter
	switch {
	case p.Addr != old.Addr || p.Bind != old.Bind || p.Config.Fingerprint != old.Config.Fingerprint || f != old.Config.Filter:
		return false
	case !p.reachesAll(old):
		return false
	case !f.Enabled:
		return true
	case f.DefaultDeny:
		return p.matchesAll(old)
	}
	return old.matchesAll(p)
}

// reachesAll reports whether fence and ConnectPort permit p's process all that they permit old's.
func (p *Policy) reachesAll(old *Policy) bool {
	open := p.portNumbers()
	if slices.ContainsFunc(old.portNumbers(), func(port uint16) bool { return !slices.Contains(open, port) }) {
		return false
	}
	return !slices.ContainsFunc(old.Egress, func(e rules.Egress) bool {
		return !slices.ContainsFunc(p.Egress, func(wider rules.Egress) bool { return wider.Covers(e) })
	})
}

// ConnectPorts returns the ports that its requests may use in addition to the usual ones and the template's: those of its
// list, and those that the fence opens, for it or forAll. The fence decides at which addresses.
func (p *Policy) ConnectPorts(forAll []rules.Egress) []uint16 {
	ports := p.portNumbers()
	for _, e := range slices.Concat(p.Egress, forAll) {
		if e.Port != 0 {
			ports = append(ports, e.Port)
		}
	}
	return ports
}

// portNumbers returns the numbers of Ports, each once.
func (p *Policy) portNumbers() (all []uint16) {
	for _, port := range p.Ports {
		all = append(all, port.Number)
	}
	return slices.Compact(all)
}

// String returns what the fakes of tests print of a policy.
func (p *Policy) String() string {
	texts := make([]string, len(p.Rules))
	for i, l := range p.Rules {
		texts[i] = l.Text
	}
	for _, e := range p.Egress {
		texts = append(texts, "egress "+e.String())
	}
	for _, port := range p.portNumbers() {
		texts = append(texts, fmt.Sprintf("port %d", port))
	}
	return fmt.Sprintf("%s (%s) at %s: %s", p.Name, p.Addr, p.Bind, strings.Join(texts, " "))
}
