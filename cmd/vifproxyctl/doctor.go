package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/usage"
	"vifproxy/netwatch"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// Levels of findings.
const (
	levelOK    = "ok"
	levelNote  = "note"  // may be meant so
	levelWrong = "wrong" // makes doctor fail
)

// finding is one thing that doctor has to say.
type finding struct {
	Check  string `json:"check"`
	Level  string `json:"level"`
	Text   string `json:"text"`
	Remedy string `json:"remedy"` // "" where there is nothing to do
}

// doctor is a look at everything around vifproxyd. It changes nothing, and needs no daemon.
type doctor struct {
	ctx      context.Context
	status   *control.Status // nil: there is no daemon
	setup    control.Setup   // the daemon's; without one, what the command line says
	links    netwatch.Snapshot
	rules    rules.Set
	findings []finding
}

func (d *doctor) tell(check, level, remedy, format string, args ...any) {
	d.findings = append(d.findings, finding{check, level, fmt.Sprintf(format, args...), remedy})
}

// doctorBound is how long all of it may take.
const doctorBound = time.Minute

// examine is the verb doctor.
func examine(c *call) error {
	ctx, cancel := context.WithTimeout(context.Background(), doctorBound)
	defer cancel()
	dir := cmp.Or(c.rulesDir, defaultRules)
	d := &doctor{ctx: ctx, setup: control.Setup{
		RulesDir: dir, Template: cmp.Or(c.template, filepath.Join(dir, templateName)), Tinyproxy: c.tinyproxy, ProxyPort: 8100,
	}}
	d.daemon(c)
	d.options()
	d.program()
	d.firewall()
	d.confinement()
	d.ruleFiles()
	d.limits()
	if d.appVMs() {
		d.netvm()
		d.bypasses()
	}
	d.service()
	d.persistence()

	text := d.text(terminalWidth(c.stdout))
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
func (d *doctor) text(width int) []byte {
	const indent = 20
	var b bytes.Buffer
	for _, f := range d.findings {
		b.WriteString(usage.Wrap(fmt.Sprintf("%-5s  %-11s  %s", f.Level, f.Check, safe(f.Text)), width, indent))
		if f.Remedy != "" {
			b.WriteString(usage.Wrap(fmt.Sprintf("%*s%s", indent, "→ ", safe(f.Remedy)), width, indent))
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
	for _, b := range status.Barred {
		d.tell("leave", levelNote, "none if that is meant, as by the kill switch of a VPN; else vifproxyd --egress-interface",
			"proxies may not leave by %s, where what AppVMs send is dropped by %s", b.Interface, b.Rule)
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

// program looks at tinyproxy.
func (d *doctor) program() {
	const check = "tinyproxy"
	binary, err := tinyproxy.Identify(d.setup.Tinyproxy)
	if err != nil {
		d.tell(check, levelWrong, "", "%v", err)
		return
	}
	text, err := binary.Version(d.ctx)
	if err != nil {
		remedy := "reinstall the package tinyproxy"
		if os.Geteuid() != 0 { // it is run as nobody
			remedy = "run doctor as root"
		}
		d.tell(check, levelWrong, remedy, "%v", err)
		return
	}
	version, ok := parseVersion(text)
	switch {
	case !ok:
		d.tell(check, levelNote, "", "%s calls itself %q: not known whether it has holes", binary.Path, text)
		return
	case version.before(release{1, 10, 0}):
		d.tell(check, levelWrong, "install tinyproxy 1.10 or later", "%s: %s is too old", binary.Path, text)
		return
	}
	d.tell(check, levelOK, "", "%s: %s", binary.Path, text)
	changes := changelog(d.ctx, binary.Path)
	for _, h := range holes {
		if !h.last.before(version) && !h.fixedIn(changes) {
			remedy := h.remedy()
			if changes == "" {
				remedy += "; your distribution may have mended it already: it left no change log to see that by"
			}
			d.tell(check, h.level, remedy, "%s: %s", strings.Join(h.ids, ", "), h.text)
		}
	}
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

func (d *doctor) ruleFiles() {
	const check = "rules"
	dir := d.setup.RulesDir
	var err error
	d.rules, err = rules.Read(dir, d.setup.Template)
	if err != nil {
		d.tell(check, levelWrong, "", "%v", err)
		return
	}
	bad := func(err error) {
		text := err.Error()
		if !slices.ContainsFunc(d.findings, func(f finding) bool { return strings.Contains(f.Text, text) }) {
			d.tell(check, levelWrong, "", "%s", text) // else the daemon has said so
		}
	}
	if err := d.rules.TemplateErr; err != nil {
		bad(err)
	}
	for _, refused := range d.rules.Refused {
		bad(refused.Err)
	}
	if d.status == nil { // else it has said so
		paths := []string{dir, d.setup.Template}
		for _, file := range d.rules.Files {
			paths = append(paths, file.Path)
		}
		for _, path := range paths {
			if onlyOwnerReads(path) {
				d.tell(check, levelWrong, makeReadable, "%s: %s", path, notReadable)
			}
		}
	}
	if filter, err := filterOf(d.rules.Template); err == nil && d.rules.TemplateErr == nil {
		if !filter.DefaultDeny && len(d.rules.Files) > 0 {
			d.tell(check, levelNote, "write FilterDefaultDeny Yes into "+d.rules.Template.Path+" if the files are white lists",
				"black lists: FilterDefaultDeny No lets these VMs reach all hosts but those in their rule files: %s", namesOf(d.rules.Files))
		}
		for _, file := range d.rules.Files {
			if found := checkFor(filter).Parsed(file); len(found) > 0 {
				d.tell(check, levelNote, "vifproxyctl check "+file.Path, "%v", found[0])
			}
		}
	}
	for _, text := range unread(dir, len(d.rules.Files)+len(d.rules.Refused)) {
		text, remedy, _ := strings.Cut(text, ": ")
		d.tell(check, levelNote, remedy, "%s", text)
	}
	if len(d.rules.Files)+len(d.rules.Refused) == 0 {
		return
	}
	d.tell(check, levelOK, "", "%s: %d rule files can be read", dir, len(d.rules.Files))
}

// namesOf lists the VMs of rule files.
func namesOf(files []rules.File) string {
	names := make([]string, len(files))
	for i, file := range files {
		names[i] = file.Name
	}
	return strings.Join(names, ", ")
}

const (
	notReadable  = "only its owner may read it, and vifproxyd is not root, but in root's group"
	makeReadable = "chgrp root and chmod g+rX it, or chmod a+rX"
)

// onlyOwnerReads tells whether there is a file, or directory, that root's group may not read.
func onlyOwnerReads(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	mode, group := info.Mode().Perm(), info.Sys().(*syscall.Stat_t).Gid
	return mode&0o004 == 0 && (group != 0 || mode&0o040 == 0)
}

// appVMs compares who is connected with who has a rule file. It tells whether that is known.
func (d *doctor) appVMs() bool {
	const check = "AppVMs"
	var err error
	if d.links, err = netwatch.Read(); err != nil {
		d.tell(check, levelWrong, "", "cannot find out who is connected: %v", err)
		return false
	}
	served := 0
	for _, vm := range d.links {
		if _, ok := d.ruleFile(vm); ok {
			served++
			continue
		}
		file := filepath.Join(d.setup.RulesDir, "NAME."+vm.Addr.String())
		d.tell(check, levelNote, "if it is to have one, write "+file, "%s on %s has no rule file, and so no proxy",
			vm.Addr, strings.Join(vm.Vifs, ", "))
	}
	for _, vm := range d.unseen() {
		d.tell(check, levelNote, "compare with `qvm-ls --network` in dom0 which address it has",
			"%s (%s) was not connected since vifproxyd started, %s", vm.Name, vm.IP,
			d.setup.Started.Local().Format("2006-01-02 15:04:05"))
	}
	d.tell(check, levelOK, "", "%d connected, %d of them with a rule file", len(d.links), served)
	return true
}

func (d *doctor) ruleFile(vm netwatch.AppVM) (rules.File, bool) {
	i := slices.IndexFunc(d.rules.Files, func(f rules.File) bool { return f.Addr == vm.Addr })
	if i < 0 {
		return rules.File{}, false
	}
	return d.rules.Files[i], true
}

// unseen are the VMs with a rule file that the daemon has never seen.
func (d *doctor) unseen() (vms []control.VM) {
	if d.status == nil {
		return nil
	}
	for _, vm := range d.status.VMs {
		if vm.Seen.IsZero() {
			vms = append(vms, vm)
		}
	}
	return vms
}
