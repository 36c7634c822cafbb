package main

import (
	"net/netip"
	"path/filepath"

	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// templatePath is the template of the rule directory, unless another was named.
func (c *call) templatePath() string {
	if c.template != "" {
		return c.template
	}
	return filepath.Join(c.rulesDir, "config")
}

// filterOf is how a template makes tinyproxy read rule files.
func filterOf(t rules.Template) (tinyproxy.Filter, error) {
	config, _, err := configOf(t)
	return config.Filter, err
}

// configOf returns what a template makes of a proxy, of no AppVM in particular, and the text that tinyproxy gets.
func configOf(t rules.Template) (tinyproxy.Config, string, error) {
	local := netip.IPv4Unspecified()
	return tinyproxy.ParseConfig(t.Path, t.Render(rules.Values{
		Port: 1, VMIP: local, BindIP: local, LogFile: "log", PidFile: "pid", RulesFile: "rules",
	}))
}

func checkFor(f tinyproxy.Filter) rules.Check {
	c := rules.Check{Syntax: rules.Syntax{CaseSensitive: f.CaseSensitive, URLs: f.URLs, Forbid: !f.DefaultDeny}}
	switch {
	case f.Fnmatch:
		c.Language = rules.Fnmatch
	case f.Extended:
		c.Language = rules.Extended
	}
	return c
}
