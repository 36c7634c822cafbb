// Package policy says what one AppVM's proxy may do: it joins what rule files and the template say (package rules) to what
// tinyproxy makes of that (package tinyproxy).
//
// Concurrency: a Policy is immutable, and every function may be called from any goroutine.
package policy

import (
	"net/netip"

	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/lint"
	"vifproxy/tinyproxy"
)

// FilterOf returns how a template makes tinyproxy read rule files.
func FilterOf(t rules.Template) (tinyproxy.Filter, error) {
	config, _, err := ConfigOf(t)
	return config.Filter, err
}

// ConfigOf returns the configuration that a template makes for no AppVM in particular, and the text that tinyproxy gets.
func ConfigOf(t rules.Template) (tinyproxy.Config, string, error) {
	nobody := Policy{Template: t, Addr: netip.IPv4Unspecified(), Bind: netip.IPv4Unspecified()}
	return nobody.RenderAnywhere()
}

// The values for a configuration whose files and port do not matter.
var anyFiles = tinyproxy.Paths{LogFile: "log", PidFile: "pid", RulesFile: "rules"}

const anyPort = 1

// SyntaxOf returns how rule files are read for this filter.
func SyntaxOf(f tinyproxy.Filter) rules.Syntax {
	s := rules.Syntax{CaseSensitive: f.CaseSensitive, URLs: f.URLs, DefaultAllow: !f.DefaultDeny}
	switch {
	case f.Fnmatch:
		s.Language = expression.Fnmatch
	case f.Extended:
		s.Language = expression.Extended
	}
	return s
}

// LinterFor returns how rule files are checked for this filter.
func LinterFor(f tinyproxy.Filter) lint.Linter { return lint.Linter{Syntax: SyntaxOf(f)} }
