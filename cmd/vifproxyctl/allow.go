package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/rules"
)

// grant is what allow and deny do, and what they print as JSON.
type grant struct {
	VM           string                `json:"vm"`
	Path         string                `json:"path"`        // the rule file
	Hosts        []string              `json:"hosts"`       // as they are sent to the proxy
	Lines        []string              `json:"lines"`       // added or removed
	Seconds      int                   `json:"seconds"`     // for which, 0 for good
	InForceMS    float64               `json:"in_force_ms"` // from the save until bindings had moved; 0: not known
	Explanations []control.Explanation `json:"explanations"`

	file  rules.File
	check rules.Check
	hosts []rules.Host
}

// newGrant reads what the command line, the rule file and the template say about it.
func newGrant(c *call) (*grant, error) {
	g := &grant{VM: c.names[0], Hosts: []string{}, Lines: []string{}, Explanations: []control.Explanation{}}
	for _, text := range c.names[1:] {
		if strings.Trim(text, "*.") == "" {
			return nil, usagef("%q is every host: name those that are needed", text)
		}
		host, err := rules.ParseHost(text)
		if err != nil {
			return nil, usagef("%v", err)
		}
		hosts := []rules.Host{host}
		if c.subdomains && !host.Below {
			hosts = append(hosts, rules.Host{Name: host.Name, Below: true})
		}
		for _, h := range hosts {
			g.hosts, g.Hosts = append(g.hosts, h), append(g.Hosts, h.String())
		}
	}
	set, err := rules.Read(c.rulesDir, c.templatePath())
	if err != nil {
		return nil, err
	}
	if set.TemplateErr != nil {
		return nil, set.TemplateErr
	}
	if g.file, err = set.Find(g.VM); err != nil {
		return nil, err
	}
	g.Path = g.file.Path
	filter, err := filterOf(set.Template)
	if err != nil {
		return nil, err
	}
	g.check = checkFor(filter)
	switch {
	case g.check.Forbid:
		return nil, fmt.Errorf("the template says FilterDefaultDeny No: lines of %s say what is forbidden, all else is allowed"+
			" (see `vifproxyctl explain %s %s` for the line to change)", g.Path, g.VM, g.hosts[0].Name)
	case g.check.URLs:
		return nil, fmt.Errorf("the template has FilterURLs: lines of %s are compared with whole URLs (edit it by hand)", g.Path)
	}
	return g, nil
}

// allow is the verb allow.
func allow(c *call) error {
	g, err := newGrant(c)
	if err != nil {
		return err
	}
	for _, host := range g.hosts {
		if why := host.TooWide(); why != "" && !c.force {
			return usagef("%s (name a host below it, or insist with --force)", why)
		}
	}
	switch {
	case c.duration < 0 || c.duration > 0 && c.duration < time.Second || c.duration > control.MaxTemporary*time.Second:
		return usagef("--for=%v: from 1s to %v", c.duration, control.MaxTemporary*time.Second)
	case c.duration > 0:
		g.Seconds = int(c.duration / time.Second)
		return g.temporary(c)
	}
	for _, host := range g.hosts {
		if len(g.file.Entries(g.check.Syntax, host)) == 0 {
			g.Lines = append(g.Lines, g.file.Entry(g.check.Syntax, host))
		}
	}
	return g.change(c, "added to", func(content []byte) ([]byte, error) {
		return rules.Append(content, g.Lines), nil
	})
}

// deny is the verb deny: it takes back what allow with the same words did, for good or for a time.
func deny(c *call) error {
	g, err := newGrant(c)
	if err != nil {
		return err
	}
	for _, host := range g.hosts {
		g.Lines = append(g.Lines, g.file.Entries(g.check.Syntax, host)...)
	}
	if !c.dryRun {
		_, err := control.NewClient(c.socket).Allow(context.Background(), control.Temporary{Name: g.VM, Hosts: g.Hosts})
		if notRunning := (*control.NotRunningError)(nil); err != nil && !errors.As(err, &notRunning) {
			return err
		}
	}
	return g.change(c, "removed from", func(content []byte) ([]byte, error) {
		file, err := rules.ParseFile(g.Path, content)
		return file.Remove(content, g.Lines), err
	})
}

// temporary has the daemon allow it.
func (g *grant) temporary(c *call) error {
	if c.dryRun {
		return g.print(c, fmt.Sprintf("would be allowed for %v", c.duration))
	}
	began := time.Now()
	_, err := control.NewClient(c.socket).Allow(context.Background(),
		control.Temporary{Name: g.VM, Hosts: g.Hosts, Seconds: g.Seconds})
	if err != nil {
		return err
	}
	g.InForceMS = milliseconds(began)
	return g.conclude(c, fmt.Sprintf("allowed for %v", c.duration), true)
}

// change rewrites the file and waits until that is in force. The file is this program's to write, with the rights of
// whoever calls it: the daemon writes nothing outside of its runtime directory.
func (g *grant) change(c *call, what string, edit func([]byte) ([]byte, error)) error {
	if c.dryRun {
		return g.print(c, "would be "+what+" "+safe(g.Path))
	}
	if len(g.Lines) > 0 {
		err := rules.Rewrite(g.Path, func(content []byte) ([]byte, error) {
			changed, err := edit(content)
			if err == nil {
				_, err = rules.ParseFile(g.Path, changed)
			}
			return changed, err
		})
		if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
			return fmt.Errorf("%w: run as root (sudo)", err)
		}
		if err != nil {
			return err
		}
	}
	began := time.Now()
	status, err := control.NewClient(c.socket).Update(context.Background())
	if err != nil {
		if printErr := g.print(c, what+" "+safe(g.Path)); printErr != nil {
			return printErr
		}
		return err
	}
	if len(g.Lines) > 0 {
		g.InForceMS = milliseconds(began)
	}
	for _, vm := range status.VMs {
		if vm.Name == g.VM && inTrouble(vm) {
			fmt.Fprintf(c.stderr, "%s (%s): %s: %s\n", safe(vm.Name), safe(vm.IP), safe(vm.State), safe(vm.Error))
		}
	}
	return g.conclude(c, what+" "+safe(g.Path), what == "added to")
}

func milliseconds(began time.Time) float64 {
	return float64(time.Since(began).Microseconds()) / 1000
}

// conclude asks the daemon whether the hosts pass now, as they should or should not, and says so.
func (g *grant) conclude(c *call, what string, should bool) error {
	trouble := false
	for _, host := range g.hosts {
		name := host.Name
		if host.Below {
			name = "any." + name
		}
		e, err := control.NewClient(c.socket).Explain(context.Background(), g.VM, name)
		if err != nil {
			return err
		}
		g.Explanations = append(g.Explanations, e)
		trouble = trouble || e.Passes != should
	}
	if err := g.print(c, what); err != nil {
		return err
	}
	if trouble {
		return errTrouble
	}
	return nil
}

func (g *grant) print(c *call, what string) error {
	if c.json {
		text, err := document(g)
		if err == nil {
			_, err = c.stdout.Write(text)
		}
		return err
	}
	lines := g.Lines
	if g.Seconds > 0 {
		lines = g.Hosts
	}
	text := what + ":\n"
	for _, line := range lines {
		text += "    " + safe(line) + "\n"
	}
	if len(lines) == 0 {
		text = "nothing is " + what + "\n"
	}
	if g.InForceMS > 0 {
		text += fmt.Sprintf("in force after %.0f ms\n", g.InForceMS)
	}
	if err := say(c.stdout, "%s", text); err != nil {
		return err
	}
	for _, e := range g.Explanations {
		if err := printExplanation(c.stdout, e); err != nil {
			return err
		}
	}
	return nil
}
