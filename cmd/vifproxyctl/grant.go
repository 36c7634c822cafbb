package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"

	"vifproxy/control"
	"vifproxy/internal/complete"
	"vifproxy/internal/edit"
	"vifproxy/internal/policy"
	"vifproxy/rules"
	"vifproxy/rules/lint"
)

// A grant is what allow and deny do, and what they print as JSON.
type grant struct {
	VM           string                `json:"vm"`
	Path         string                `json:"path"`        // the rule file
	Hosts        []string              `json:"hosts"`       // as they are sent to the proxy
	Lines        []string              `json:"lines"`       // added or removed
	Ports        []uint16              `json:"ports"`       // opened with them, for all hosts of the list
	Seconds      int                   `json:"seconds"`     // for which, 0 for good
	InForceMS    float64               `json:"in_force_ms"` // from the save until bindings had moved; 0: not known, or nobody is served
	Explanations []control.Explanation `json:"explanations"`

	Changes []policy.Change `json:"changes,omitempty"` // which hosts that admits or takes away

	TakenBack []string `json:"taken_back,omitempty"` // of Hosts, what was allowed for a time

	// InDom0 is the command for dom0 that changes the list; "" if it is in a rule file. Nothing is changed here.
	InDom0 string `json:"in_dom0,omitempty"`

	c       *call
	o       grantOptions
	place   place
	notice  string      // why what is in force serves nobody
	dom0    *rules.List // the list, if it is in no file
	file    rules.File
	mayMake bool // the rule file, if there is none
	kind    edit.Kind
	check   lint.Linter
	rules   edit.Rules
	added   bool // lines are added; otherwise they are removed
	hosts   []rules.Host
	asked   []string // what explain is asked: for each host of the command line, the URL as it was given
}

// newGrantOf returns a grant of hosts that were chosen, and that nobody asks about again.
func newGrantOf(c *call, o grantOptions, hosts []rules.Host) *grant {
	g := &grant{c: c, o: o, VM: c.args[0], Hosts: []string{}, Lines: []string{}, Ports: []uint16{}, Explanations: []control.Explanation{}, hosts: hosts}
	for _, h := range hosts {
		g.Hosts = append(g.Hosts, h.String())
	}
	return g
}

// newGrant reads the hosts of the command line.
func newGrant(c *call, o grantOptions) (*grant, error) {
	g := newGrantOf(c, o, nil)
	targets, err := edit.Targets(c.args[1:], o.subdomains)
	if err != nil {
		return nil, usagef("%v", err)
	}
	for _, t := range targets {
		g.hosts, g.Hosts, g.asked = append(g.hosts, t.Host), append(g.Hosts, t.String()), append(g.asked, t.Request)
	}
	return g, nil
}

// read reads the rule file and its template.
func (g *grant) read() error {
	set, err := edit.Read(g.place.dir, g.place.template, g.place.ceiling)
	if err != nil {
		return err
	}
	g.check, g.rules = set.Linter, set
	for i := range g.hosts {
		g.hosts[i] = set.Needed(g.hosts[i])
		g.Hosts[i] = g.hosts[i].String()
	}
	if g.dom0, err = g.elsewhere(); err != nil {
		return err
	} else if g.dom0 != nil {
		g.file, err = g.dom0.Parse()
	} else if g.file, err = set.Find(g.VM); err != nil {
		err = g.first(set.Set, err)
	} else if g.mayMake && g.file.Unwritten() {
		g.kind = edit.Unwritten
		g.file, err = rules.ParseFile(g.file.Path, []byte(edit.NamesHeader))
	}
	if err = cmp.Or(err, g.overruled()); err != nil {
		return err
	}
	g.Path = g.file.Path
	switch {
	case g.check.DefaultAllow:
		host := "HOST"
		if len(g.hosts) > 0 {
			host = g.hosts[0].Name
		}
		return fmt.Errorf("the template `config` says FilterDefaultDeny No: lines of %s say what is forbidden, all else is allowed"+
			" (see `vifproxyctl explain %s %s` for the line to change)", g.Path, g.VM, host)
	case g.check.URLs:
		return fmt.Errorf("the template `config` has FilterURLs: lines of %s are compared with whole URLs (edit it by hand)", g.Path)
	}
	return nil
}

// first prepares the first rule file of a VM that is named with its address, NAME.IP. none is the error that there is no other.
func (g *grant) first(set rules.Set, none error) error {
	name, addr, err := rules.ParseFileName(g.VM)
	if err != nil || !addr.IsValid() {
		if slices.ContainsFunc(set.Refused, func(r rules.Refused) bool { return r.Name == g.VM }) || !g.mayMake {
			return none
		}
		if err != nil { // no file can have that name
			return err
		}
		if _, network, err := rules.ParseRangeName(g.VM); network.IsValid() && err == nil {
			return fmt.Errorf("%s is for all AppVMs of a range, and allow is for one of them: write the lines into %s yourself", g.VM, filepath.Join(g.place.dir, g.VM))
		}
		if partOfAddress.MatchString(g.VM) {
			return fmt.Errorf("%s ends in a part of an address: name a VM without it, or with all four numbers", g.VM)
		}
		return fmt.Errorf("%w, in %s; %s", none, g.place.dir, complete.ForTheFirst(g.VM, g.Hosts, complete.ConnectedWithout(set)))
	}
	for _, other := range set.Files {
		switch {
		case other.Name == name && other.Addr == addr:
			g.VM, g.file = name, other
			return nil
		case other.Name == name || other.Addr == addr:
			return fmt.Errorf("%s is there: rename or remove it first, as a VM has one rule file", other.Path)
		}
	}
	for _, other := range set.Refused {
		if other.Name == name || other.Addr == addr {
			return other.Err
		}
	}
	if !g.mayMake {
		return none
	}
	g.VM, g.kind = name, edit.Missing
	g.file, err = rules.ParseFile(filepath.Join(g.place.dir, name+"."+addr.String()), []byte(edit.NamesHeader))
	return err
}

// partOfAddress matches what is meant for NAME.IP, and has less than an address.
var partOfAddress = regexp.MustCompile(`^[^.]+(\.[0-9]{1,3}){2,3}\.?$`)
