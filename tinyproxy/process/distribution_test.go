package process

import (
	"fmt"
	"strings"
	"testing"

	"vifproxy/tinyproxy"
)

// debianConf is /etc/tinyproxy/tinyproxy.conf of Debian 12 and 13 (tinyproxy 1.11.1 and 1.11.2) without comments, but for the
// port. The package tinyproxy-bin, of which vifproxy's package depends, has no such file.
const debianConf = `
User tinyproxy
Group tinyproxy
Port 61000
Timeout 600
DefaultErrorFile "/usr/share/tinyproxy/default.html"
StatFile "/usr/share/tinyproxy/stats.html"
LogFile "/var/log/tinyproxy/tinyproxy.log"
LogLevel Info
PidFile "/run/tinyproxy/tinyproxy.pid"
MaxClients 100
Allow 127.0.0.1
Allow ::1
ViaProxyName "tinyproxy"
`

// TestDistributionConfig starts what the distribution ships, made to fit.
func TestDistributionConfig(t *testing.T) {
	l := newLauncher(t, nil)
	spec := newSpec(l, "social", 61000)
	spec.Render = render("", func(paths tinyproxy.Paths) string {
		return fmt.Sprintf("%s\nListen 127.0.0.1\nFilter %q", debianConf, paths.RulesFile)
	})
	start(t, l, realBinary, spec)
}

// TestFilterTypes asks the real tinyproxy whether our reading of a filter directive is right.
func TestFilterTypes(t *testing.T) {
	l := newLauncher(t, nil)
	for line, want := range map[string]struct {
		filter tinyproxy.Filter
		status string // of a request for www.example.com, where the black list says (www|ftp)[.]example.com
	}{
		"":                   {tinyproxy.Filter{Enabled: true}, "500"},
		"FilterType ERE":     {tinyproxy.Filter{Enabled: true, Extended: true}, "403"},
		"FilterExtended yes": {tinyproxy.Filter{Enabled: true, Extended: true}, "403"},
		"FilterType bre":     {tinyproxy.Filter{Enabled: true}, "500"},
	} {
		spec := newSpec(l, "social", 61000)
		text := strings.TrimSuffix(textOf(l, spec), "FilterExtended Yes\n") // a white list's
		spec.Render = render("", func(tinyproxy.Paths) string { return strings.Replace(text, "FilterDefaultDeny Yes", line, 1) })
		spec.Rules = []tinyproxy.FilterLine{{Text: `^(www|ftp)[.]example[.]com$`, Number: 1}}
		p := start(t, l, realBinary, spec)
		if p.Spec.Config.Filter != want.filter {
			t.Errorf("%s: %+v", line, p.Spec.Config.Filter)
		}
		// There is no name server in this namespace: what is permitted ends in an error of another kind.
		if got := get(t, p, "www.example.com"); !strings.Contains(got, " "+want.status+" ") {
			t.Errorf("%s: %s", line, got)
		}
		p.Kill()
	}
}
