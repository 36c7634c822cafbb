// Package review says what of a list is used: lines that nobody needs, lines that other lines cover, and lines that permit more than what was
// used. The counts of the daemon say what is used, and the project's matcher says what lines permit. The package changes nothing but
// bytes that it is given.
//
// A request counts for each line that matches its host, so that lines can be compared. A line is unused if no request needed it: none
// came for a host that it alone permits, of the lines that are left. Lines for several hosts are left out first. If all unused lines are left
// out together, every host that is remembered still passes.
//
// Concurrency: its functions may be called from any goroutine.
package review

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"vifproxy/control"
	"vifproxy/internal/policy"
	"vifproxy/rules"
	"vifproxy/rules/match"
	"vifproxy/tinyproxy"
)

const (
	// narrowerMax is how many lines are proposed in the place of one.
	narrowerMax = 16
	// togetherMax is how many lines are compared with all others together, which takes long in a list of thousands.
	togetherMax = 50
)

// Findings about a line.
const (
	Covered = "covered" // other lines permit all that it permits
	Unused  = "unused"  // no request has needed it
	Wide    = "wide"    // it permits more than what was used
)

// A Line is a line of a list that permits hosts.
type Line struct {
	Path    string    `json:"path"` // of the list that has it
	Number  int       `json:"line"`
	Text    string    `json:"text"` // as the list has it
	Count   int       `json:"count"`
	Last    time.Time `json:"last,omitzero"`
	Counted int64     `json:"counted"`         // seconds for which requests were counted
	Hosts   []string  `json:"hosts,omitempty"` // that it was used for
	More    bool      `json:"more,omitempty"`  // it was used for others, too
	// VMs include the list that has the line; empty if the rule file has it.
	VMs []string `json:"vms,omitempty"`

	Finding string   `json:"finding,omitempty"`
	By      int      `json:"by,omitempty"`      // the line that covers it; 0 if several do
	Instead []string `json:"instead,omitempty"` // the lines for the hosts that were used; none if these are too many
	Loses   string   `json:"loses,omitempty"`   // a shortest host that would not be permitted any more
	// Wildcards has fewer lines that would do; nil if none are narrower than this one.
	Wildcards *Wildcards `json:"wildcards,omitempty"`
	Early     bool       `json:"early,omitempty"` // it was counted for too short a time to propose anything

	pattern string
	port    uint16
	counts  bool // the daemon counts it
}

// A Report is what is found about a list.
type Report struct {
	VM      string    `json:"vm"`
	Path    string    `json:"path"`
	Origin  string    `json:"origin"`        // where the list is, as in control.VM
	Why     string    `json:"why,omitempty"` // why nothing is counted
	Begun   time.Time `json:"begun,omitzero"`
	Counted int64     `json:"counted"`
	Lost    int       `json:"lost,omitempty"`
	Last    time.Time `json:"last_lost,omitzero"`
	Lines   []Line    `json:"lines"` // not null
}

// An Input is what a report is made of.
type Input struct {
	VM       string
	Origin   string // of the list, as in control.VM
	File     rules.File
	Template rules.Template
	Uses     []control.ListUse // of all VMs, because several may include a list
	Enough   time.Duration     // for which requests have to be counted before a line is called unused or wide
}

// Of returns a report about a list. The error says why the list cannot be used.
func Of(in Input) (Report, error) {
	r := Report{VM: in.VM, Path: in.File.Path, Origin: cmp.Or(in.Origin, control.InFile), Lines: []Line{}}
	p, err := policy.New(in.File, nil, in.Template, policy.Input{Bind: netip.IPv4Unspecified()})
	if err != nil {
		return r, err
	}
	for _, use := range in.Uses {
		if use.VM == in.VM {
			r.Begun, r.Counted, r.Lost, r.Last, r.Why = use.Begun, use.Counted, use.Lost, use.Last, use.Uncountable
		}
	}
	if f := p.Config.Filter; r.Why != "" || !f.Enabled || !f.DefaultDeny || f.URLs {
		r.Why = cmp.Or(r.Why, "only white lists of hosts are counted")
		return r, nil
	}
	known := in.known()
	ports := map[place]uint16{}
	for _, e := range in.File.Entries() {
		ports[place{e.Part, e.Line}] = e.Port
	}
	for _, rule := range p.Rules {
		l := in.line(rule, known)
		l.port = ports[place{rule.Part, rule.Number}]
		r.Lines = append(r.Lines, l)
	}
	e := newExaminer(in, p, r.Lines)
	e.covered()
	e.unused()
	e.wide()
	return r, nil
}

// A place is a line of a file.
type place struct {
	part string
	line int
}

// A key is a line of a list, whatever stands above it.
type key struct{ path, pattern string }

// A use is what was counted of a line in the list of one VM.
type use struct {
	vm, list string
	control.LineUse
}

// known returns what was counted, by lines.
func (in Input) known() map[key][]use {
	all := map[key][]use{}
	for _, list := range in.Uses {
		for _, u := range list.Lines {
			k := key{u.Path, u.Pattern}
			all[k] = append(all[k], use{list.VM, list.Path, u})
		}
	}
	return all
}

// line returns a line with its uses, in all lists that have it.
func (in Input) line(rule tinyproxy.FilterLine, known map[key][]use) Line {
	l := Line{Path: cmp.Or(rule.Part, in.File.Path), Number: rule.Number, Text: rule.Source, pattern: rule.Text}
	seen := map[string]bool{}
	for _, u := range known[key{l.Path, rule.Text}] {
		if rule.Part != "" {
			l.VMs = append(l.VMs, u.vm)
		}
		if rule.Part == "" && u.vm != in.VM || seen[u.list] { // the list of a range is counted once for all its VMs
			continue
		}
		seen[u.list] = true
		if !l.counts {
			l.counts, l.Counted = true, u.Counted
		}
		l.Count += u.Count
		l.Counted = min(l.Counted, u.Counted)
		l.More = l.More || u.More
		if u.Last.After(l.Last) {
			l.Last = u.Last
		}
		for _, h := range u.Hosts {
			if !slices.Contains(l.Hosts, h.Host) {
				l.Hosts = append(l.Hosts, h.Host)
			}
		}
	}
	return l
}

// An examiner compares the lines of one list.
type examiner struct {
	Input
	lines   []Line
	syntax  rules.Syntax // of tinyproxy
	reading rules.Syntax // of the file
	all     *match.Matcher
	hosts   *match.Difference // between all and nothing
	exact   []bool            // the matcher knows exactly what the line matches
	kept    []bool            // it is not among those that are left out
	several []bool            // it was used, and permits more than one host
}

func newExaminer(in Input, p *policy.Policy, lines []Line) *examiner {
	e := &examiner{Input: in, lines: lines, syntax: policy.SyntaxOf(p.Config.Filter.Compiled()), reading: policy.SyntaxOf(p.Config.Filter),
		exact: make([]bool, len(lines)), kept: make([]bool, len(lines)), several: make([]bool, len(lines))}
	e.all = match.New(e.patterns(func(int) bool { return true }), e.syntax)
	e.hosts = e.all.Without(match.New(nil, e.syntax), match.Names)
	for i := range lines {
		e.exact[i], e.kept[i] = true, true
	}
	for _, l := range e.all.Inexact() {
		e.exact[l.Line] = false
	}
	return e
}

// patterns returns those of some lines.
func (e *examiner) patterns(of func(number int) bool) (texts []string) {
	for i := range e.lines {
		if of(i) {
			texts = append(texts, e.lines[i].pattern)
		}
	}
	return texts
}

// others returns the patterns of the lines that are kept without one, and more.
func (e *examiner) others(i int, more ...string) []string {
	return append(e.patterns(func(j int) bool { return j != i && e.kept[j] }), more...)
}

// beyond returns a shortest text that a line matches and no pattern; known is false if that cannot be said.
func (e *examiner) beyond(i int, patterns []string, texts match.Texts) (text string, found, known bool) {
	text, found, err := match.New([]string{e.lines[i].pattern}, e.syntax).Without(match.New(patterns, e.syntax), texts).Beyond(0)
	return text, found, err == nil
}

// loses returns a shortest host that a line permits, and none of those that are kept, nor more patterns. It tries first what is shortest
// without the others, because a list may have thousands.
func (e *examiner) loses(i int, more ...string) (host string, found, known bool) {
	if len(more) == 0 { // of each line
		var err error
		host, found, err = e.hosts.Beyond(i)
		known = err == nil
	} else {
		host, found, known = e.beyond(i, more, match.Names)
	}
	if !found || !known || len(e.permitting(host, i)) == 0 {
		return host, found, known
	}
	return e.beyond(i, e.others(i, more...), match.Names)
}

// permitting returns the other lines that are kept and match a text.
func (e *examiner) permitting(text string, but int) (found []int) {
	for _, j := range e.all.Lines(text, len(e.lines)) {
		if j != but && e.kept[j] {
			found = append(found, j)
		}
	}
	return found
}

// covered finds the lines that others cover. Of two that say the same, the later one is covered. Lines of included lists stay, because
// other VMs may need them.
func (e *examiner) covered() {
	samples := e.all.Without(match.New(nil, e.syntax), match.AllTexts)
	together := 0
	for i := len(e.lines) - 1; i >= 0; i-- {
		l := &e.lines[i]
		if !e.exact[i] || l.VMs != nil || l.Path != e.File.Path || e.opensAlone(i) {
			continue
		}
		sample, found, err := samples.Beyond(i)
		if err != nil || !found {
			continue
		}
		by := e.permitting(sample, i)
		for _, j := range by {
			if _, found, known := e.beyond(i, []string{e.lines[j].pattern}, match.AllTexts); known && !found && l.Finding == "" {
				l.Finding = Covered
				if e.lines[j].Path == l.Path {
					l.By = e.lines[j].Number
				}
			}
		}
		if l.Finding == "" && len(by) > 0 && together < togetherMax {
			together++
			if _, found, known := e.beyond(i, e.others(i), match.AllTexts); known && !found {
				l.Finding = Covered
			}
		}
		e.kept[i] = l.Finding == ""
	}
}

// opensAlone reports whether a line opens a port that nothing else opens.
func (e *examiner) opensAlone(i int) bool {
	l := e.lines[i]
	return l.port != 0 && !slices.ContainsFunc(e.File.Ports, func(p rules.Port) bool {
		return p.Number == l.port && (p.Line != l.Number || cmp.Or(p.Part, e.File.Path) != l.Path)
	})
}

// judged reports whether it can be said of a line whether it is used.
func (e *examiner) judged(i int) bool {
	l := e.lines[i]
	return e.exact[i] && l.counts && l.Finding == ""
}

// unused finds the lines that no request has needed, those for several hosts first.
func (e *examiner) unused() {
	order := make([]int, len(e.lines))
	for i := range e.lines {
		order[i] = i
		e.several[i] = e.isForSeveral(i)
	}
	slices.SortStableFunc(order, func(i, j int) int {
		switch {
		case e.several[i] == e.several[j]:
			return cmp.Compare(j, i) // of two that say nearly the same, the first stays
		case e.several[i]:
			return -1
		}
		return 1
	})
	for _, i := range order {
		l := &e.lines[i]
		if !e.judged(i) || l.More || l.Count > 0 && len(l.Hosts) == 0 || len(e.needed(i)) > 0 {
			continue
		}
		l.Finding, l.Early = Unused, l.Counted < int64(e.Enough/time.Second)
		l.Loses, _, _ = e.loses(i)
		if !l.Early && l.VMs == nil {
			e.kept[i] = false
		}
	}
}

// needed returns the hosts for which a line was used and that no other line permits that is kept.
func (e *examiner) needed(i int) (hosts []string) {
	for _, host := range e.lines[i].Hosts {
		if len(e.permitting(host, i)) == 0 {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// isForSeveral reports whether a line was used, and permits more than one host.
func (e *examiner) isForSeveral(i int) bool {
	l := e.lines[i]
	if len(l.Hosts) != 1 {
		return len(l.Hosts) > 0
	}
	hosts, ok := e.hostsOf(l.Hosts, 0)
	_, compiled, possible := e.linesFor(hosts)
	if !ok || !possible {
		return true
	}
	_, found, known := e.beyond(i, compiled, match.Names)
	return found || !known
}
