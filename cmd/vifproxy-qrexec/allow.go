package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/internal/edit"
	"vifproxy/internal/kept"
	"vifproxy/rules"
	"vifproxy/rules/hostname"
)

// allowedFor is how long vifproxy.Allow allows a host.
const allowedFor = 10 * time.Minute

var (
	plainName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	plainPort = regexp.MustCompile(`^[1-9][0-9]{0,4}$`)
)

// parse reads HOST or HOST+PORT. If that is something else, or not for a caller to ask for, it says why.
func parse(argument string) (host rules.Host, why string) {
	name, port, withPort := strings.Cut(argument, "+")
	const form = "write one whole host name, such as cdn.example, or cdn.example+8443 with a port"
	if len(name) > hostname.Longest || !plainName.MatchString(name) {
		return host, form
	}
	canonical, flaw := hostname.Canonical(name)
	host.Name = canonical
	switch {
	case flaw != nil, host.IsAddr(), !strings.Contains(canonical, "."): // without a dot it may be this VM or one of the LAN
		return host, form
	case host.Objection() != "":
		return host, canonical + " cannot be allowed by itself: write one host name that belongs to somebody"
	}
	if withPort {
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil || !plainPort.MatchString(port) {
			return host, form
		}
		host.Port = uint16(number)
	}
	return host, ""
}

// allow lets the caller reach a host for a time.
func (c call) allow(ctx context.Context, host rules.Host) (string, bool) {
	list, err := c.list(ctx)
	if err != nil {
		return c.no(err), false
	}
	if set, err := edit.Read(list.Setup.RulesDir, list.Setup.Template, ""); err == nil {
		host = set.Needed(host)
	}
	status, err := c.daemon.Allow(ctx,
		control.Temporary{Name: c.caller, Hosts: []string{host.String()}, Seconds: int(allowedFor.Seconds()), Asked: true})
	if err != nil {
		return c.no(err), false
	}
	return c.inForce(status, fmt.Sprintf("%s is allowed for %d minutes", host, int(allowedFor.Minutes())))
}

// allowAlways adds a host to the caller's list for good, if that is a rule file.
func (c call) allowAlways(ctx context.Context, host rules.Host) (string, bool) {
	list, err := c.list(ctx)
	if err != nil {
		return c.no(err), false
	}
	vm := list.VMs[0]
	set, err := edit.Read(list.Setup.RulesDir, list.Setup.Template, list.Setup.Ceiling)
	if err != nil {
		return c.no(err), false
	}
	host = set.Needed(host)
	if err := set.MayAllow(host); err != nil {
		return c.no(&control.DaemonError{Fault: control.Conflict, Message: err.Error()}), false
	}
	if vm.Origin == control.InDom0 {
		return c.typeInDom0(host), false
	}
	file, err := set.Find(c.caller)
	switch {
	case err != nil:
		return c.no(err), false
	case file.Path != vm.Path || !set.Linter.Narrows():
		return c.no(errors.New("not this file, or not by a line")), false
	}
	kind := edit.Written
	if file.Unwritten() {
		kind = edit.Unwritten
	}
	err = edit.Write(file.Path, kind, func(content []byte) ([]byte, error) {
		now, err := rules.ParseFile(file.Path, content)
		return rules.Append(content, now.Lacks(set.Linter.Syntax, host)), err
	})
	if err != nil {
		return c.no(err), false
	}
	status, err := c.daemon.Update(ctx)
	if err != nil {
		return c.no(err), false
	}
	text, ok := c.inForce(status, host.String()+" is allowed")
	if ok && kept.At(ctx, "", list.Setup.RulesDir).Lost {
		text += fmt.Sprintf(" until the firewall VM restarts, which keeps no lists; there, `vifproxyctl export %s` prints the command for dom0 that does",
			c.caller)
	}
	return text, ok
}

// typeInDom0 returns what to type in dom0 to add a host to the caller's list. The line has neither the firewall VM's name, nor the
// address that dom0 gives to the caller, which the caller may not know (net.fake-ip), nor what is on the list.
func (c call) typeInDom0(host rules.Host) string {
	return fmt.Sprintf(`no: dom0 keeps this list; type there: v=$(qvm-prefs %[1]s netvm) f=vm-config.vifproxy.%[1]s.$(qvm-prefs %[1]s ip);`+
		` qvm-features $v $f "$(qvm-features $v $f) %[2]s"`, c.caller, host)
}

// list returns the status with the caller's own list.
func (c call) list(ctx context.Context) (control.Status, error) {
	status, err := c.daemon.Caller(ctx, c.caller)
	if err == nil && (len(status.VMs) != 1 || status.VMs[0].Name != c.caller) {
		return status, errors.New("another list")
	}
	return status, err
}

// inForce says whether what was done serves the caller.
func (c call) inForce(status control.Status, done string) (string, bool) {
	for _, vm := range status.VMs {
		if vm.Name == c.caller && vm.State == control.Running && vm.Error == "" {
			return done, true
		}
	}
	return fmt.Sprintf("no: %s, but that is not in force; in the firewall VM, `vifproxyctl show %s` says why", done, c.caller), false
}

// no returns the line for an error. The error itself may be about others, so the caller does not get it.
func (c call) no(err error) string {
	var said *control.DaemonError
	fault := control.Internal
	if errors.As(err, &said) {
		fault = said.Fault
	}
	if os.Geteuid() != 0 { // the policy decides who executes a service; a file below /etc/qubes/rpc-config does only since 4.2.12
		return "no: the policy in dom0 has to say user=root for this service"
	}
	switch fault {
	case control.Unknown:
		return fmt.Sprintf("no: there is no list of its own for %[1]s; in the firewall VM, `vifproxyctl allow %[1]s HOST` says how to begin one", c.caller)
	case control.TooMany:
		return "no: asked too often; wait a minute"
	case control.Conflict:
		return fmt.Sprintf("no: the list of %[1]s cannot be changed like this; in the firewall VM, `vifproxyctl show %[1]s` says more", c.caller)
	}
	return fmt.Sprintf("no: that did not work; in the firewall VM, `vifproxyctl doctor` and `vifproxyctl show %s` say more", c.caller)
}
