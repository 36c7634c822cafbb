package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/usage"
	"vifproxy/netwatch"
	"vifproxy/rules"
)

// Levels of findings.
const (
	levelOK    = "ok"
	levelNote  = "note"  // may be meant so
	levelWrong = "wrong" // makes doctor fail
)

// finding is one thing that doctor has to say.
type finding struct {
	Check   string   `json:"check"`
	Level   string   `json:"level"`
	Text    string   `json:"text"`
	Remedy  string   `json:"remedy"`            // "" where there is nothing to do
	Details []string `json:"details,omitempty"` // what Text sums up
}

// doctor is a look at everything around vifproxyd. It changes nothing, and needs no daemon.
type doctor struct {
	ctx      context.Context
	status   *control.Status // nil: there is no daemon
	setup    control.Setup   // the daemon's; without one, what the command line says
	links    netwatch.Snapshot
	rules    rules.Set
	socket   string // of the daemon
	findings []finding

	stuck, leaves bool         // what a trial sent has not left this VM, or has
	answering     []netip.Addr // resolvers that answer
	stopped       []netip.Addr // resolvers to which no question of a proxy gets out
}

func (d *doctor) tell(check, level, remedy, format string, args ...any) {
	d.findings = append(d.findings, finding{Check: check, Level: level, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

// mostNamed is how many subjects a finding names; its details have all.
const mostNamed = 10

// tellOf tells of all that is found of one kind in one line: one is a sentence about a subject, many about their number and
// their names.
func (d *doctor) tellOf(check, level, remedy, one, many string, subjects []string) {
	switch len(subjects) {
	case 0:
		return
	case 1:
		d.tell(check, level, remedy, one, subjects[0])
		return
	}
	names := strings.Join(subjects[:min(len(subjects), mostNamed)], ", ")
	if more := len(subjects) - mostNamed; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	d.tell(check, level, remedy, many, len(subjects), names)
	if len(subjects) > mostNamed {
		d.findings[len(d.findings)-1].Details = subjects
	}
}

// doctorBound is how long all of it may take.
const doctorBound = time.Minute

// examine is the verb doctor.
func examine(c *call) error {
	ctx, cancel := context.WithTimeout(context.Background(), doctorBound)
	defer cancel()
	dir := cmp.Or(c.rulesDir, defaultRules)
	d := &doctor{ctx: ctx, socket: c.socket, setup: control.Setup{
		RulesDir: dir, Template: cmp.Or(c.template, filepath.Join(dir, templateName)), Tinyproxy: c.tinyproxy, ProxyPort: 8100,
	}}
	d.daemon(c)
	d.options()
	d.program()
	here := d.here()
	if here {
		d.firewall()
	}
	d.confinement()
	d.ruleFiles()
	d.limits()
	if here {
		if d.appVMs() {
			d.netvm()
			d.bypasses()
		}
		d.network()
		d.resolvers()
		d.ipv6()
		d.trial()
		d.others()
	}
	d.service()
	d.persistence()
	return d.print(c)
}

// print shows what was found, and fails if something is wrong.
func (d *doctor) print(c *call) error {
	text := d.text(terminalWidth(c.stdout), c.verbose)
	if c.json {
		var err error
		if text, err = document(d.findings); err != nil {
			return err
		}
	}
	if _, err := c.stdout.Write(text); err != nil {
		return err
	}
	if slices.ContainsFunc(d.findings, func(f finding) bool { return f.Level == levelWrong }) {
		return errTrouble
	}
	return nil
}

// text is for people, on a terminal of this width; 0 is none.
func (d *doctor) text(width int, verbose bool) []byte {
	const indent = 20
	var b bytes.Buffer
	for _, f := range d.findings {
		b.WriteString(usage.Wrap(fmt.Sprintf("%-5s  %-11s  %s", f.Level, f.Check, safe(f.Text)), width, indent))
		if f.Remedy != "" {
			b.WriteString(usage.Wrap(fmt.Sprintf("%*s%s", indent, "→ ", safe(f.Remedy)), width, indent))
		}
		for _, detail := range f.Details {
			if verbose {
				b.WriteString(usage.Wrap(fmt.Sprintf("%*s%s", indent, "- ", safe(detail)), width, indent))
			}
		}
	}
	return b.Bytes()
}

// daemon asks vifproxyd what it says of itself, and how it was started.
func (d *doctor) daemon(c *call) {
	const check = "daemon"
	status, err := control.NewClient(c.socket).Status(d.ctx)
	var notRunning *control.NotRunningError
	var permission *control.PermissionError
	switch {
	case errors.As(err, &notRunning):
		text, remedy := fmt.Sprintf("vifproxyd is not running (%s: %v)", notRunning.Socket, notRunning.Err), "systemctl start vifproxyd"
		if last := d.lastError(); last != "" {
			text, remedy = text+"; its last error: "+last, "set right what the error says, then systemctl restart vifproxyd"
		}
		d.tell(check, levelWrong, remedy, "%s", text)
	case errors.As(err, &permission):
		d.tell(check, levelWrong, "run doctor as root", "permission denied on %s", permission.Socket)
	case err != nil:
		d.tell(check, levelWrong, "journalctl -u vifproxyd", "%v", err)
	}
	if err != nil {
		return
	}
	d.status, d.setup = &status, status.Setup
	user := "root"
	if status.Setup.UID != 0 {
		user = fmt.Sprintf("uid %d, not as root", status.Setup.UID)
	}
	d.tell(check, levelOK, "", "vifproxyd %s runs since %s, as %s", status.Setup.Version,
		status.Setup.Started.Local().Format("2006-01-02 15:04:05"), user)
	if status.Setup.Version != build() {
		d.tell(check, levelNote, "systemctl restart vifproxyd", "vifproxyd is version %s, vifproxyctl %s",
			status.Setup.Version, build())
	}
	for _, problem := range status.Problems {
		d.tell(check, levelWrong, "journalctl -u vifproxyd", "%s", problem)
	}
	var errs []string
	troubled := map[string][]string{}
	for _, vm := range status.VMs {
		if inTrouble(vm) {
			if troubled[vm.Error] == nil {
				errs = append(errs, vm.Error)
			}
			troubled[vm.Error] = append(troubled[vm.Error], fmt.Sprintf("%s (%s, %s)", vm.Name, vm.IP, vm.State))
		}
	}
	for _, text := range errs { // one of the template's is that of all VMs
		d.tell(check, levelWrong, "set right what the message says; vifproxyd notices by itself",
			"%s: %s", strings.Join(troubled[text], ", "), text)
	}
}

// here reports whether the network that doctor sees is that of vifproxyd. Its links, routes and rules are all in one network
// namespace; in another one all of them seem to be missing.
func (d *doctor) here() bool {
	own, err := os.Readlink("/proc/self/ns/net")
	theirs, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", d.setup.PID))
	if err != nil || err2 != nil || own == theirs { // only root may read theirs
		return true
	}
	d.tell("namespace", levelWrong, fmt.Sprintf("nsenter --net=/proc/%d/ns/net vifproxyctl doctor", d.setup.PID),
		"doctor runs in another network namespace than vifproxyd: links, routes and firewall are not looked at")
	return false
}

func (d *doctor) firewall() {
	const check = "firewall"
	kind, why, err := firewall.Fitting(d.ctx)
	if err != nil {
		remedy := ""
		if os.Geteuid() != 0 {
			remedy = "run doctor as root"
		}
		d.tell(check, levelWrong, remedy, "%v", err)
		return
	}
	if d.status != nil {
		if d.status.Backend != kind {
			d.tell(check, levelNote, "restart vifproxyd, without --firewall", "vifproxyd uses %s, but %s fits: %s",
				d.status.Backend, kind, why)
		}
		kind = d.status.Backend
	}
	found, err := firewall.Inspect(d.ctx, kind)
	switch {
	case err != nil:
		d.tell(check, levelWrong, "", "%s: %v", kind, err)
	case d.status == nil && len(found.Present) == 0:
		d.tell(check, levelOK, "", "%s fits: %s", kind, why)
	case d.status == nil:
		d.tell(check, levelNote, "start vifproxyd, which takes them over", "rules that a vifproxyd has left: %s",
			strings.Join(found.Present, ", "))
	case len(found.Missing) > 0:
		d.tell(check, levelWrong, "vifproxyctl update, and find out which program takes them away",
			"%s: missing is %s", kind, strings.Join(found.Missing, ", "))
	default:
		d.tell(check, levelOK, "", "%s: everything is in place", kind)
	}
}
