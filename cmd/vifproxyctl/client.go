package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"

	"vifproxy/control"
	"vifproxy/internal/browsers"
	"vifproxy/internal/usage"
)

// setup is what a format may say: an address and a number, and, in comments only, a name that is made of letters, digits
// and "_.-".
type setup struct {
	Name      string
	Proxy     browsers.Proxy
	Variables []string
}

// Preferences are the lines for Firefox, with their values in JavaScript.
func (s setup) Preferences() ([]browsers.Setting, error) {
	settings := browsers.FirefoxPreferences(s.Proxy)
	for i := range settings {
		value, err := json.Marshal(settings[i].Value)
		if err != nil {
			return nil, err
		}
		settings[i].Value = string(value)
	}
	return settings, nil
}

// format is a text that programs in an AppVM read.
type format struct {
	text   *template.Template                  // in which comments say where it goes
	policy func(browsers.Proxy) map[string]any // in the place of text: JSON, which has no comments
	file   string                              // that a policy goes to, in the AppVM
	kept   string                              // where the AppVM keeps it when it restarts
	seen   string                              // where the browser shows it
}

var formats = map[string]format{
	"env": {text: mustParse(`# {{.Name}}: most programs of a shell. For all of them: /rw/config/rc.local can append
# these lines to /etc/environment. Browsers may ignore them: see firefox-policy and chromium-policy.
{{range $name := .Variables}}{{$name}}=http://{{$.Proxy}}/
{{end}}no_proxy=localhost,127.0.0.1
NO_PROXY=localhost,127.0.0.1
`)},
	"firefox": {text: mustParse(`// {{.Name}}: append this to user.js in Firefox' profile folder (see about:profiles).
{{range .Preferences}}user_pref("{{.Name}}", {{.Value}}); // {{.Why}}
{{end}}`)},
	"firefox-policy": {policy: browsers.FirefoxPolicy, file: "/etc/firefox/policies/policies.json",
		kept: "/rw/config/firefox-policies.json", seen: "about:policies"},
	"chromium-policy": {policy: browsers.ChromiumPolicy, file: "/etc/chromium/policies/managed/vifproxy.json",
		kept: "/rw/config/chromium-policies.json", seen: "chrome://policy"},
	"pac": {text: mustParse(`// {{.Name}}: a proxy auto-configuration file. Programs in the AppVM take it as file:///PATH.
function FindProxyForURL(url, host) {
	if (host === "localhost" || host === "127.0.0.1") return "DIRECT";
	return "PROXY {{.Proxy}}";
}
`)},
}

func mustParse(text string) *template.Template { return template.Must(template.New("").Parse(text)) }

// formatNamed looks a format up, and guesses what was meant when there is none of that name.
func formatNamed(name string) (format, error) {
	if f, ok := formats[name]; ok {
		return f, nil
	}
	known := slices.Sorted(maps.Keys(formats))
	text := fmt.Sprintf("--format=%s: there is %s", name, strings.Join(known, ", "))
	switch meant := cmp.Or(formatSynonyms[name], usage.Nearest(name, known)); {
	case name == "json":
		text += "; firefox-policy and chromium-policy are JSON"
	case meant != "":
		text += fmt.Sprintf("; did you mean %s?", meant)
	}
	return format{}, usagef("%s", text)
}

// formatSynonyms are words that people try.
var formatSynonyms = map[string]string{
	"chromium": "chromium-policy", "chrome": "chromium-policy", "policy": "firefox-policy", "policies": "firefox-policy",
	"user.js": "firefox", "shell": "env", "environment": "env",
}

// configure is the verb client.
func configure(c *call) error {
	f, err := formatNamed(c.format)
	if err != nil {
		return err
	}
	status, err := control.NewClient(c.socket).Status(context.Background())
	if err != nil {
		return err
	}
	vm, err := pick(status, c.names[0])
	if err != nil {
		return err
	}
	gateway := gatewayOf(vm, status)
	if gateway == "" {
		return fmt.Errorf("%s is not connected, nor is any other AppVM: its gateway is not known; start it first",
			vm.Name)
	}
	proxy := browsers.Proxy{Host: gateway, Port: status.Setup.ProxyPort}
	if f.policy == nil {
		return f.text.Execute(c.stdout, setup{vm.Name, proxy, []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"}})
	}
	text, err := document(f.policy(proxy))
	if err != nil {
		return err
	}
	if _, err := c.stdout.Write(text); err != nil {
		return err
	}
	return say(c.stderr, `%s reads this from %s, for all users, and shows it at %s.
Bring it into %[4]s with qvm-copy, copy it to %[5]s, and have
/rw/config/rc.local bring it to its place whenever %[4]s starts:
    install -D -m 644 %[5]s %[2]s
`, strings.TrimSuffix(c.format, "-policy"), f.file, f.seen, vm.Name, f.kept)
}

// pick finds a VM of the status as the daemon does for its own verbs.
func pick(status control.Status, name string) (control.VM, error) {
	var known []string
	for _, vm := range status.VMs {
		if vm.Name == name {
			return vm, nil
		}
		known = append(known, vm.Name)
	}
	return control.VM{}, &control.UnknownError{Names: []string{name}, Known: known}
}

// gatewayOf takes another VM's gateway for one that is not connected: Qubes has the same on all vifs.
func gatewayOf(vm control.VM, status control.Status) string {
	for _, vm := range append([]control.VM{vm}, status.VMs...) {
		if vm.Gateway != "" {
			return vm.Gateway
		}
	}
	return ""
}
