package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/internal/policy"
	"vifproxy/internal/terminal"
	"vifproxy/netwatch"
	"vifproxy/rules"
)

// grant is what allow and deny do, and what they print as JSON.
type grant struct {
	VM           string                `json:"vm"`
	Path         string                `json:"path"`        // the rule file
	Hosts        []string              `json:"hosts"`       // as they are sent to the proxy
	Lines        []string              `json:"lines"`       // added or removed
	Ports        []uint16              `json:"ports"`       // opened with them, for all hosts of the list
	Seconds      int                   `json:"seconds"`     // for which, 0 for good
	InForceMS    float64               `json:"in_force_ms"` // from the save until bindings had moved; 0: not known, or nobody is served
	Explanations []control.Explanation `json:"explanations"`

	TakenBack []string `json:"taken_back,omitempty"` // of Hosts, what was allowed for a time

	place   place
	notice  string // why what is in force serves nobody
	file    rules.File
	mayMake bool // the rule file, if there is none
	makes   bool // there is none
	asNames bool // it says nothing yet, and begins with names
	check   rules.Check
	hosts   []rules.Host
	asked   []string // for each of hosts, what explain is asked: the URL as it was given
}

// namesHeader begins a rule file of names, which are what people mean.
const namesHeader = "#: format domains\n"

const byteOrderMark = "\ufeff"

// newGrant reads what the command line says of hosts.
func newGrant(c *call) (*grant, error) {
	g := &grant{VM: c.names[0], Hosts: []string{}, Lines: []string{}, Ports: []uint16{}, Explanations: []control.Explanation{}}
	for _, text := range c.names[1:] {
		if strings.Trim(text, "*.") == "" {
			return nil, usagef("%q is every host: name those that are needed", text)
		}
		if strings.Contains(text, ",") {
			return nil, usagef("%q: separate hosts by spaces", text)
		}
		host, err := rules.ParseHost(text)
		if meant := rules.NamesMeant(text); err != nil && len(meant) > 0 {
			return nil, usagef("%s is not a host name: write %s", text, strings.Join(meant, " "))
		}
		if err != nil {
			return nil, usagef("%v", err)
		}
		hosts := []rules.Host{host}
		if c.subdomains && !host.Below && !host.IsAddr() {
			hosts = append(hosts, rules.Host{Name: host.Name, Below: true, Port: host.Port})
		}
		for _, h := range hosts {
			g.hosts, g.Hosts, g.asked = append(g.hosts, h), append(g.Hosts, h.String()), append(g.asked, requestFor(text, h))
		}
	}
	return g, nil
}

// requestFor returns what explain is asked about a host that a person gave as text: the URL without its path, or the host and
// its port.
func requestFor(text string, h rules.Host) string {
	name := h.Name
	if h.Below {
		name = "any." + name
	}
	if h.Port != 0 {
		name = fmt.Sprintf("%s:%d", name, h.Port)
	}
	scheme, _, isURL := strings.Cut(text, "://")
	if scheme = strings.ToLower(scheme); isURL && (scheme != "https" || h.Port == 80) {
		name = scheme + "://" + name + "/"
	}
	return name
}

// read reads the rule file and its template.
func (g *grant) read(c *call) error {
	set, err := rules.Read(g.place.dir, g.place.template)
	if err != nil {
		return err
	}
	if set.TemplateErr != nil {
		return set.TemplateErr
	}
	config, _, err := policy.ConfigOf(set.Template)
	if err != nil {
		return err
	}
	g.check = policy.CheckFor(config.Filter)
	for i := range g.hosts {
		if slices.Contains(config.Connect, g.hosts[i].Port) { // open for all
			g.hosts[i].Port = 0
			g.Hosts[i] = g.hosts[i].String()
		}
	}
	if g.file, err = set.Find(g.VM); err != nil {
		err = g.first(set, err)
	} else if g.mayMake && g.file.Unwritten() {
		g.asNames = true
		g.file, err = rules.ParseFile(g.file.Path, []byte(namesHeader))
	}
	if err != nil {
		return err
	}
	g.Path = g.file.Path
	switch {
	case g.check.Forbid:
		return fmt.Errorf("the template `config` says FilterDefaultDeny No: lines of %s say what is forbidden, all else is allowed"+
			" (see `vifproxyctl explain %s %s` for the line to change)", g.Path, g.VM, g.hosts[0].Name)
	case g.check.URLs:
		return fmt.Errorf("the template `config` has FilterURLs: lines of %s are compared with whole URLs (edit it by hand)", g.Path)
	}
	return nil
}

// first makes the first rule file of a VM that is named with its address, NAME.IP. none is why there is no other.
func (g *grant) first(set rules.Set, none error) error {
	name, addr, err := rules.ParseFileName(g.VM)
	if err != nil || !addr.IsValid() {
		if slices.ContainsFunc(set.Refused, func(r rules.Refused) bool { return r.Name == g.VM }) || !g.mayMake {
			return none
		}
		return fmt.Errorf("%w, in %s; %s", none, g.place.dir, g.forTheFirst(connectedWithout(set)))
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
	g.VM, g.makes = name, true
	g.file, err = rules.ParseFile(filepath.Join(g.place.dir, name+"."+addr.String()), []byte(namesHeader))
	return err
}

// forTheFirst says how to make the first rule file of a VM. Nobody tells the firewall VM the names of AppVMs, so a person has to
// say which one is meant, also if only one comes into question.
func (g *grant) forTheFirst(without []netwatch.AppVM) string {
	command := func(addr string) string {
		return fmt.Sprintf("`vifproxyctl allow %s.%s %s`", g.VM, addr, strings.ReplaceAll(strings.Join(g.Hosts, " "), "*", `\*`))
	}
	if len(without) == 1 {
		return fmt.Sprintf("connected without one is %s, on %s: if that is %s, %s", without[0].Addr, strings.Join(without[0].Vifs, ", "),
			g.VM, command(without[0].Addr.String()))
	}
	text := "for a first one name it with its address: " + command("IP")
	for i, vm := range without {
		text += map[bool]string{true: "; connected without one: ", false: ", "}[i == 0]
		text += fmt.Sprintf("%s on %s", vm.Addr, strings.Join(vm.Vifs, ", "))
	}
	return text
}

// connectedWithout returns the AppVMs that are connected and have no rule file.
func connectedWithout(set rules.Set) []netwatch.AppVM {
	links, err := netwatch.Read()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(links, func(vm netwatch.AppVM) bool {
		return slices.ContainsFunc(set.Files, func(f rules.File) bool { return f.Addr == vm.Addr }) ||
			slices.ContainsFunc(set.Refused, func(r rules.Refused) bool { return r.Addr == vm.Addr })
	})
}

// allow is the verb allow.
func allow(c *call) error {
	g, err := newGrant(c)
	if err != nil {
		return err
	}
	for _, host := range g.hosts {
		if why := host.Objection(); why != "" && !c.force {
			return usagef("%s, or insist with --force", why)
		}
	}
	const longest = control.MaxTemporary * time.Second
	if c.duration.given && (c.duration.d < time.Second || c.duration.d > longest) {
		return usagef("--for=%s: from 1s to %v; without --for it is for good", c.duration.typed, length{d: longest})
	}
	g.place = c.place(context.Background())
	if err := g.place.fatal(); err != nil {
		return err
	}
	g.mayMake = !c.duration.given
	if err := g.read(c); err != nil && (!c.duration.given || c.dryRun) { // for a time no file is needed
		return err
	}
	for _, host := range g.hosts {
		if host.Port != 0 && !slices.Contains(g.Ports, host.Port) {
			g.Ports = append(g.Ports, host.Port)
		}
		lacks := g.file.Lacks(g.check.Syntax, host)
		for _, line := range lacks {
			if !slices.Contains(g.Lines, line) {
				g.Lines = append(g.Lines, line)
			}
		}
		if lacks == nil && c.duration.given {
			c.warn("%s is on the list for good, and stays there: %s", host, g.Path)
		}
	}
	if c.duration.given {
		g.Seconds, g.Lines = int(c.duration.d/time.Second), []string{}
		return g.temporary(c)
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
	g.place = c.place(context.Background())
	if err := g.place.fatal(); err != nil {
		return err
	}
	if err := g.read(c); err != nil {
		return err
	}
	content, err := rules.ReadFile(g.Path)
	if err != nil {
		return err
	}
	if g.file, err = rules.ParseFile(g.Path, content); err != nil {
		return err
	}
	_, removed := g.file.Without(content, g.check.Syntax, g.hosts)
	g.Lines = append(g.Lines, removed...)
	if !c.dryRun && g.place.err == nil {
		status, err := control.NewClient(c.socket).Allow(context.Background(), control.Temporary{Name: g.VM, Hosts: g.Hosts})
		if err != nil {
			return err
		}
		g.TakenBack = status.TakenBack
	}
	return g.change(c, "removed from", func(content []byte) ([]byte, error) {
		file, err := rules.ParseFile(g.Path, content)
		changed, _ := file.Without(content, g.check.Syntax, g.hosts)
		return changed, err
	})
}

// temporary has the daemon allow it.
func (g *grant) temporary(c *call) error {
	what := fmt.Sprintf("allowed for %v", c.duration)
	if c.dryRun {
		return g.print(c, "would be "+what)
	}
	began := time.Now()
	status, err := control.NewClient(c.socket).Allow(context.Background(),
		control.Temporary{Name: g.VM, Hosts: g.Hosts, Seconds: g.Seconds})
	if unknown := (*control.DaemonError)(nil); errors.As(err, &unknown) && unknown.Code == http.StatusNotFound {
		return fmt.Errorf("%w; to be allowed something for a time a VM needs a rule file, also an empty one: NAME.IP in %s", err, g.place.dir)
	}
	if err != nil {
		return err
	}
	g.serves(status, began)
	return g.conclude(c, what, true)
}

// change rewrites the file and waits until that is in force. The file is this program's to write, with the rights of
// whoever calls it: the daemon writes nothing outside of its runtime directory.
func (g *grant) change(c *call, what string, edit func([]byte) ([]byte, error)) error {
	if c.dryRun {
		return g.print(c, "would be "+what+" "+terminal.Quote(g.Path))
	}
	if len(g.Lines) > 0 {
		if err := g.write(edit); err != nil {
			return err
		}
		if what == "added to" {
			g.findings(c)
		}
		c.toldLost(g.Path)
	}
	if !g.place.daemons { // nobody to wait for
		return errors.Join(g.print(c, what+" "+terminal.Quote(g.Path)), g.place.err)
	}
	began := time.Now()
	status, err := control.NewClient(c.socket).Update(context.Background())
	if err != nil {
		if printErr := g.print(c, what+" "+terminal.Quote(g.Path)); printErr != nil {
			return printErr
		}
		return err
	}
	if len(g.Lines)+len(g.TakenBack) > 0 {
		g.serves(status, began)
	}
	err = printRemarks(c, c.stderr, remarks(status.VMs, func(vm control.VM) bool { return vm.Name == g.VM && vm.InTrouble() }))
	return errors.Join(err, g.conclude(c, what+" "+terminal.Quote(g.Path), what == "added to"))
}

// serves notes since when a change is in force, or why it is not: nobody is served by a proxy that does not run.
func (g *grant) serves(status control.Status, began time.Time) {
	vm, err := pick(status, g.VM)
	switch {
	case err != nil:
	case vm.State == control.Running && vm.Error != "":
		g.notice = "not taken over: the last good rules serve on"
	case vm.State == control.Running:
		g.InForceMS = milliseconds(began)
	case vm.State == control.Stopped:
		g.notice = fmt.Sprintf("serves nobody: the proxy of %s is stopped; start it with `vifproxyctl start %[1]s`", g.VM)
	case vm.State == control.Waiting:
		g.notice = fmt.Sprintf("serves nobody yet: no AppVM with the address %s is connected", vm.IP)
	default:
		g.notice = fmt.Sprintf("serves nobody: the proxy of %s is in the state %q; see `vifproxyctl show %[1]s`", g.VM, vm.State)
	}
}

// write rewrites the rule file, or makes the first one.
func (g *grant) write(edit func([]byte) ([]byte, error)) error {
	valid := func(content []byte) ([]byte, error) {
		changed, err := edit(content)
		if err == nil {
			_, err = rules.ParseFile(g.Path, changed)
		}
		return changed, err
	}
	var err error
	if g.makes {
		var content []byte
		if content, err = valid([]byte(namesHeader)); err == nil {
			err = os.MkdirAll(g.place.dir, 0o755)
		}
		if err == nil {
			err = writeNew(g.Path, content)
		}
	} else {
		err = rules.Rewrite(g.Path, func(content []byte) ([]byte, error) {
			if g.asNames {
				rest, marked := strings.CutPrefix(string(content), byteOrderMark)
				content = []byte(strings.Repeat(byteOrderMark, map[bool]int{true: 1}[marked]) + namesHeader + rest)
			}
			return valid(content)
		})
	}
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("%w: run as root (sudo)", err)
	}
	return err
}

// findings warns where the lines of the file hardly mean what their author meant, as a new line beneath them looks like
// a sign that all is well.
func (g *grant) findings(c *call) {
	if found := g.check.Parsed(g.file); len(found) > 0 {
		text := found[0].String()
		if more := len(found) - 1; more > 0 {
			text += fmt.Sprintf("; and %d more: vifproxyctl check %s", more, g.VM)
		}
		c.warn("%s", text)
	}
}
