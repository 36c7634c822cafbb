// Package policy has what one AppVM's proxy may do.
//
// Concurrency: its functions may be called from any goroutine.
package policy

import (
	"net/netip"

	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// FilterOf returns how a template makes tinyproxy read rule files.
func FilterOf(t rules.Template) (tinyproxy.Filter, error) {
	config, _, err := ConfigOf(t)
	return config.Filter, err
}

// ConfigOf returns what a template makes of a proxy, of no AppVM in particular, and the text that tinyproxy gets.
func ConfigOf(t rules.Template) (tinyproxy.Config, string, error) {
	local := netip.IPv4Unspecified()
	return tinyproxy.ParseConfig(t.Path, t.Render(rules.Values{
		Port: 1, VMIP: local, BindIP: local, LogFile: "log", PidFile: "pid", RulesFile: "rules",
	}))
}

// CheckFor returns how rule files are checked if tinyproxy reads them so.
func CheckFor(f tinyproxy.Filter) rules.Check {
	c := rules.Check{Syntax: rules.Syntax{CaseSensitive: f.CaseSensitive, URLs: f.URLs, Forbid: !f.DefaultDeny}}
	switch {
	case f.Fnmatch:
		c.Language = rules.Fnmatch
	case f.Extended:
		c.Language = rules.Extended
	}
	return c
}
