package settings

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"vifproxy/internal/browsers"
	"vifproxy/internal/usage"
)

// A Format is a text that programs read, for people who put it where it belongs.
type Format struct {
	Where string // the comment at its top, after the name of the AppVM; empty for JSON, which has no comments
	Text  func(browsers.Proxy) (string, error)

	// For the policies of browsers:
	File string // where it goes in the AppVM
	Kept string // where the AppVM keeps it when it restarts
	Seen string // where the browser shows it
}

// formats are all formats by their names.
var formats = map[string]Format{
	"env": {Text: plain(environment), Where: `# %s: most programs of a shell. For all of them: /rw/config/rc.local can append
# these lines to /etc/environment. Browsers may ignore them: see firefox-policy and chromium-policy.`},
	"firefox": {Text: userPreferences, Where: "// %s: append this to user.js in Firefox' profile folder (see about:profiles)."},
	"firefox-policy": {Text: func(p browsers.Proxy) (string, error) { return policy(browsers.FirefoxPolicy(p)) },
		File: "/etc/firefox/policies/policies.json", Kept: "/rw/config/firefox-policies.json", Seen: "about:policies"},
	"chromium-policy": {Text: func(p browsers.Proxy) (string, error) { return policy(browsers.ChromiumPolicy(p)) },
		File: "/etc/chromium/policies/managed/vifproxy.json", Kept: "/rw/config/chromium-policies.json", Seen: "chrome://policy"},
	"pac": {Text: plain(autoConfiguration), Where: "// %s: a proxy auto-configuration file. Programs in the AppVM take it as file:///PATH."},
	"apt": {Text: plain(apt), Where: "// %s: a file in /etc/apt/apt.conf.d."},
	"dnf": {Text: plain(dnf), Where: "# %s: a file *.conf in /etc/dnf/libdnf5.conf.d (dnf 5), or the section [main] of /etc/dnf/dnf.conf."},
	"git": {Text: plain(git), Where: "# %s: append this to ~/.gitconfig. Git reads the variables of env too."},
	"systemd": {Text: plain(systemd),
		Where: "# %s: a file *.conf in /etc/systemd/system.conf.d, for services that start after systemctl daemon-reload."},
}

// synonyms are words that people try.
var synonyms = map[string]string{
	"chromium": "chromium-policy", "chrome": "chromium-policy", "policy": "firefox-policy", "policies": "firefox-policy",
	"user.js": "firefox", "shell": "env", "environment": "env", "curl": "env", "wget": "env", "flatpak": "env", "yum": "dnf",
	"apt-get": "apt", "gitconfig": "git", "services": "systemd",
}

// FormatNames returns the names of all formats, in order.
func FormatNames() []string { return slices.Sorted(maps.Keys(formats)) }

// FormatNamed returns the format of a name. The error of another word names all formats, and the one that was meant.
func FormatNamed(name string) (Format, error) {
	if f, ok := formats[name]; ok {
		return f, nil
	}
	known := FormatNames()
	text := fmt.Sprintf("there is %s", strings.Join(known, ", "))
	switch meant := cmp.Or(synonyms[name], usage.Nearest(name, known)); {
	case name == "json":
		text += "; firefox-policy and chromium-policy are JSON"
	case meant != "":
		text += fmt.Sprintf("; did you mean %s?", meant)
	}
	return Format{}, fmt.Errorf("%s", text)
}

// For returns the text for an AppVM. Its name is in a comment: it has letters, digits and "_.-" only.
func (f Format) For(name string, p browsers.Proxy) (string, error) {
	text, err := f.Text(p)
	if err == nil && f.Where != "" {
		text = fmt.Sprintf(f.Where, name) + "\n" + text
	}
	return text, err
}

func plain(text func(browsers.Proxy) string) func(browsers.Proxy) (string, error) {
	return func(p browsers.Proxy) (string, error) { return text(p), nil }
}

// userPreferences returns lines of user.js. Values are in JavaScript, which JSON is part of.
func userPreferences(p browsers.Proxy) (string, error) {
	var b strings.Builder
	for _, s := range browsers.FirefoxPreferences(p) {
		value, err := json.Marshal(s.Value)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "user_pref(%q, %s); // %s\n", s.Name, value, s.Why)
	}
	return b.String(), nil
}

func autoConfiguration(p browsers.Proxy) string {
	return fmt.Sprintf(`function FindProxyForURL(url, host) {
	if (host === "localhost" || host === "127.0.0.1") return "DIRECT";
	return "PROXY %s";
}
`, p)
}
