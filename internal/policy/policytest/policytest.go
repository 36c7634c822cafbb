// Package policytest makes policies for tests.
//
// Concurrency: any test may call it.
package policytest

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vifproxy/internal/policy"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// RealBinary is the path of the tinyproxy that tests start.
const RealBinary = "/usr/bin/tinyproxy"

// Of returns what the daemon makes of a rule file with the built-in template and more directives.
func Of(t *testing.T, bind netip.Addr, lines []string, directives ...string) *policy.Policy {
	t.Helper()
	path := filepath.Join(t.TempDir(), "social.10.137.0.1")
	file, err := rules.ParseFile(path, []byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	text := "Listen {bind_ip}\nPort {port}\nFilter \"{rules_file}\"\nConnectPort 443\nLogLevel Critical\n"
	if !slices.ContainsFunc(directives, func(d string) bool { return strings.HasPrefix(d, "FilterDefaultDeny ") }) {
		directives = append(slices.Clone(directives), "FilterDefaultDeny No")
	}
	template, err := rules.ParseTemplate("config", text+strings.Join(directives, "\n")+"\n")
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(file, nil, template, policy.Input{Bind: bind, Binary: tinyproxy.Binary{Path: RealBinary}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}
