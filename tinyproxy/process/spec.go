package process

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/limits"
)

// A Spec is everything that decides what a proxy does.
type Spec struct {
	Name   string         // of the AppVM
	Addr   netip.Addr     // of the AppVM
	Listen netip.AddrPort // IPv4; the configuration must say that the proxy listens there
	UID    uint32         // from Identities
	// Render returns the configuration of a proxy with these files, and its text. An error is one of the template.
	Render func(tinyproxy.Paths) (tinyproxy.Config, string, error)
	Rules  []tinyproxy.FilterLine
	Size   limits.Rules // of the list, for the proxy's limits: a line of Rules may be several of the list
	// ExtraPorts are TCP ports that ConnectPort and the sandbox open in addition to 53, 80, 443 and those of the
	// configuration. The firewall says at which addresses.
	ExtraPorts []uint16

	RulesPath    string // the user's rule file, for messages
	TemplatePath string // the user's template, for messages; "" for the built-in one

	heard func(line string) // of a trial: gets what the trial says, instead of the AppVM's log
}

// rendered is a Spec with its configuration.
type rendered struct {
	Spec
	Config tinyproxy.Config
	text   string // of the configuration; "" once it is in the file
}

func (l *Launcher) render(spec Spec) (r rendered, err error) {
	r.Spec = spec
	if r.Config, r.text, err = spec.Render(l.paths(spec.Name, spec.Listen.Port())); err == nil {
		r.text += r.Config.ConnectTo(spec.ExtraPorts)
	}
	return r, err
}

// check refuses a Spec whose configuration says something else than the Spec.
func (l *Launcher) check(spec rendered) *Error {
	c, path := spec.Config, l.paths(spec.Name, spec.Listen.Port()).RulesFile
	wrong := func(text, remedy string) *Error {
		return &Error{Text: tinyproxy.TemplateName(spec.TemplatePath) + ": " + text, Remedy: remedy, Config: true}
	}
	switch {
	case filepath.Base(spec.Name) != spec.Name || strings.HasPrefix(spec.Name, "."):
		return &Error{Text: "no file can have that name", Config: true, Remedy: "rename the rule file"}
	case !spec.Listen.Addr().Is4() || !tinyproxy.IsProxyUID(spec.UID):
		return &Error{Text: fmt.Sprintf("cannot listen on %s as uid %d", spec.Listen, spec.UID)}
	case c.Port != spec.Listen.Port():
		return wrong(fmt.Sprintf("its Port is %d, not %d", c.Port, spec.Listen.Port()),
			`write "Port {port}", and no other Port`)
	case !slices.Contains(c.Listen, spec.Listen.Addr()):
		return wrong("it does not Listen on "+spec.Listen.Addr().String(), `write "Listen {bind_ip}"`)
	case c.RulesFile != path:
		return wrong(fmt.Sprintf("its Filter is %q, not the rules of the VM", c.RulesFile),
			`write Filter "{rules_file}", and no other Filter`)
	}
	for _, r := range spec.Rules {
		if strings.ContainsAny(r.Text, "\n\x00") {
			return &Error{Text: fmt.Sprintf("%s: line break or NUL in %q", r.Where(spec.RulesPath), r.Text),
				Remedy: "remove it", Config: true}
		}
	}
	if l.options.Sandbox == nil {
		return nil
	}
	var tooMany *limits.TooManyClients
	var tooLong *limits.TooLong
	switch err := l.options.Sandbox.Fits(c.MaxClients, spec.Size); {
	case errors.As(err, &tooLong):
		return &Error{Text: spec.RulesPath, Err: err, Remedy: tooLong.Remedy, Config: true}
	case errors.As(err, &tooMany):
		where := tinyproxy.TemplateName(spec.TemplatePath)
		if c.MaxClientsLine > 0 {
			where = fmt.Sprintf("%s:%d", where, c.MaxClientsLine)
		}
		return &Error{Text: where, Err: err, Remedy: tooMany.Remedy, Config: true}
	}
	return nil
}
