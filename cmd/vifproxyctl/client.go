package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"

	"vifproxy/control"
	"vifproxy/internal/browsers"
	"vifproxy/internal/settings"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// A setup has what a format may use: an address and a number, and, in comments only, a name that is made of letters, digits
// and "_.-".
type setup struct {
	Name  string
	Proxy browsers.Proxy
}

// These are texts that vifproxy-client writes too.
func (s setup) Environment() string { return settings.Environment(s.Proxy) }
func (s setup) Apt() string         { return settings.Apt(s.Proxy) }
func (s setup) Dnf() string         { return settings.Dnf(s.Proxy) }
func (s setup) Git() string         { return settings.Git(s.Proxy) }
func (s setup) Systemd() string     { return settings.Systemd(s.Proxy) }

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
{{.Environment}}`)},
	"apt": {text: mustParse(`// {{.Name}}: a file in /etc/apt/apt.conf.d.
{{.Apt}}`)},
	"dnf": {text: mustParse(`# {{.Name}}: a file *.conf in /etc/dnf/libdnf5.conf.d (dnf 5), or the section [main] of /etc/dnf/dnf.conf.
{{.Dnf}}`)},
	"git": {text: mustParse(`# {{.Name}}: append this to ~/.gitconfig. Git reads the variables of env too.
{{.Git}}`)},
	"systemd": {text: mustParse(`# {{.Name}}: a file *.conf in /etc/systemd/system.conf.d, for services that start after systemctl daemon-reload.
{{.Systemd}}`)},
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

// formatNamed returns the format of this name. If there is none, the error proposes one.
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
	"user.js": "firefox", "shell": "env", "environment": "env", "curl": "env", "wget": "env", "flatpak": "env", "yum": "dnf", "apt-get": "apt",
	"gitconfig": "git", "services": "systemd",
}

func clientVerb() verb {
	return verb{
		name: "client", args: "NAME", least: 1, most: 1,
		options: func(f *flag.FlagSet) action {
			format := f.String("format", "env", "print this `FORMAT` (env)")
			return func(c *call) error { return runClient(c, *format) }
		},
		noJSON:  "; --format=firefox-policy and --format=chromium-policy are JSON",
		summary: "Print the proxy settings for programs in a VM.",
		help: `FORMAT is one of
    env                variables for shells and their programs, or /etc/environment (the default)
    firefox            lines for user.js in a profile of Firefox, each with its reason
    firefox-policy     JSON for /etc/firefox/policies/policies.json: the proxy, locked
    chromium-policy    JSON for a file *.json in /etc/chromium/policies/managed: the same
    pac                a proxy auto-configuration file, for browsers and desktops
    apt                a file for /etc/apt/apt.conf.d
    dnf                a file for /etc/dnf/libdnf5.conf.d, or lines for /etc/dnf/dnf.conf
    git                lines for ~/.gitconfig. Git reads the variables of env too, and so does flatpak
    systemd            a file for /etc/systemd/system.conf.d: the variables for services

With the package vifproxy-client in its template, NAME does all of this by itself: see
vifproxy-client(1).

The formats for browsers also turn off what the browser requests without a page: telemetry, updates, lists
of unsafe sites, the search for a captive portal, DNS over HTTPS, early requests for pages, accounts,
push messages, news in a new tab. Debian and Fedora update the browser. A policy is for all users and all
profiles of a VM, also for new ones as in a disposable. In a session of GNOME Chromium ignores the
variables of env.

To use a policy, run the first two commands in the VM of vifproxyctl and the others in NAME. They keep the
policy below /rw, because a restart of NAME takes /etc from its template again:
    $ sudo vifproxyctl client NAME --format=firefox-policy >policies.json
    $ qvm-copy policies.json        # dom0 asks where to: NAME

    $ sudo cp ~/QubesIncoming/*/policies.json /rw/config/firefox-policies.json
    $ echo 'install -D -m 644 /rw/config/firefox-policies.json /etc/firefox/policies/policies.json' |
        sudo tee -a /rw/config/rc.local
    $ sudo chmod +x /rw/config/rc.local; sudo /rw/config/rc.local
`,
	}
}

func runClient(c *call, formatName string) error {
	f, err := formatNamed(formatName)
	if err != nil {
		return err
	}
	status, err := c.client.Status(c.ctx)
	if err != nil {
		return err
	}
	vm, err := vmNamed(status, c.args[0])
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
		return f.text.Execute(c.stdout, setup{vm.Name, proxy})
	}
	text, err := terminal.JSON(f.policy(proxy), "  ")
	if err != nil {
		return err
	}
	if err := say(c.stdout, "%s", text); err != nil {
		return err
	}
	return say(c.stderr, `%s reads this from %s, for all users, and shows it at %s.
Bring it into %[4]s with qvm-copy, copy it to %[5]s, and have
/rw/config/rc.local bring it to its place whenever %[4]s starts:
    install -D -m 644 %[5]s %[2]s
`, strings.TrimSuffix(formatName, "-policy"), f.file, f.seen, vm.Name, f.kept)
}

// gatewayOf returns the gateway of a VM. For one that is not connected it is another VM's, because Qubes has the same on all vifs.
func gatewayOf(vm control.VM, status control.Status) string {
	for _, vm := range append([]control.VM{vm}, status.VMs...) {
		if vm.Gateway != "" {
			return vm.Gateway
		}
	}
	return ""
}
