// Package settings has the texts by which programs in an AppVM find their proxy, and where each text goes. vifproxyctl prints them, and
// vifproxy-client writes them when the AppVM starts.
//
// Each place is one that what a user writes outranks; the reason is given at each File.
//
// Concurrency: any goroutine may call anything here.
package settings

import (
	"fmt"
	"strings"

	"vifproxy/internal/browsers"
	"vifproxy/internal/terminal"
)

// A File is a text at its place in an AppVM.
type File struct {
	Path    string // absolute
	For     string // the programs that read it, for a person
	Text    string // it ends with a newline
	Format  string // its name for [FormatNamed]
	Comment string // what begins a comment; empty for JSON
	Only    string // it is needed only if this path exists; empty: always
	// Hides are files that a user or a distribution may have, and that nobody reads if this one exists.
	Hides []string
}

// variables are those that programs read. There is no one spelling that all of them know: curl does not read HTTP_PROXY (CVE-2016-5385),
// and some programs read upper case alone.
var variables = []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"}

// direct are the names at which the AppVM reaches itself.
const direct = "localhost,127.0.0.1"

// assignments calls add for each variable with its value.
func assignments(p browsers.Proxy, add func(name, value string)) {
	for _, name := range variables {
		add(name, fmt.Sprintf("http://%s/", p))
	}
	add("no_proxy", direct)
	add("NO_PROXY", direct)
}

// environment returns lines NAME=VALUE, as /etc/environment has them.
func environment(p browsers.Proxy) string {
	var b strings.Builder
	assignments(p, func(name, value string) { fmt.Fprintf(&b, "%s=%s\n", name, value) })
	return b.String()
}

// defaults returns the same for what expands ${NAME:-VALUE}: a variable that has a value keeps it. With the operator "-", which shells
// know and environment.d(5) does not, one that was set to nothing keeps that too.
func defaults(p browsers.Proxy, prefix, operator string) string {
	var b strings.Builder
	assignments(p, func(name, value string) { fmt.Fprintf(&b, "%s%s=${%[2]s%s%s}\n", prefix, name, operator, value) })
	return b.String()
}

// systemd returns a file for /etc/systemd/system.conf.d: the variables for the services of the system.
func systemd(p browsers.Proxy) string {
	b := &strings.Builder{}
	b.WriteString("[Manager]\n")
	assignments(p, func(name, value string) { fmt.Fprintf(b, "DefaultEnvironment=%s=%s\n", name, value) })
	return b.String()
}

// apt returns a file for /etc/apt/apt.conf.d. https:// falls back to what is said of http:// (apt-transport-https(1)); both are said,
// because another file may have set one of them.
func apt(p browsers.Proxy) string {
	return fmt.Sprintf("Acquire::http::Proxy \"http://%s/\";\nAcquire::https::Proxy \"http://%[1]s/\";\n", p)
}

// dnf returns a file for /etc/dnf/libdnf5.conf.d, or lines for /etc/dnf/dnf.conf.
func dnf(p browsers.Proxy) string { return fmt.Sprintf("[main]\nproxy=http://%s/\n", p) }

// git returns lines for a configuration file of git. Git reads the variables too, so that it needs this only where these are missing.
func git(p browsers.Proxy) string { return fmt.Sprintf("[http]\n\tproxy = http://%s/\n", p) }

// policy returns a policy of a browser as its file has it.
func policy(policies map[string]any) (string, error) {
	text, err := terminal.JSON(policies, "  ")
	return string(text), err
}

// Files returns all that programs in an AppVM need to find their proxy. git, flatpak, curl and others read the variables.
func Files(p browsers.Proxy) ([]File, error) {
	firefox, err := policy(browsers.FirefoxPolicy(p))
	if err != nil {
		return nil, err
	}
	chromium, err := policy(browsers.ChromiumPolicy(p))
	if err != nil {
		return nil, err
	}
	return []File{
		// Firefox reads one file of policies: this one before that of its own directory (EnterprisePoliciesParent.sys.mjs).
		{Path: "/etc/firefox/policies/policies.json", For: "Firefox", Format: "firefox-policy", Text: firefox, Hides: []string{
			"/usr/lib/firefox-esr/distribution/policies.json", "/usr/lib/firefox/distribution/policies.json",
			"/usr/lib64/firefox/distribution/policies.json", "/opt/firefox/distribution/policies.json"}},
		// Of two files that set the same policy, the later one by name counts (ConfigDirPolicyLoader::LoadFromPath of Chromium).
		{Path: "/etc/chromium/policies/managed/00-vifproxy.json", For: "Chromium", Format: "chromium-policy", Text: chromium},
		// Login shells, and in Qubes all that starts in the session: qubes-run-xorg starts it by `sh -l`. What is read later may set
		// these variables to something else, ~/.profile last.
		{Path: "/etc/profile.d/00-vifproxy.sh", For: "shells and the session", Format: "env", Text: defaults(p, "export ", "-"), Comment: "#"},
		// Services of users, and a session that these start, as those of GNOME and KDE. The latest name counts, in whichever of the
		// directories it is, ~/.config/environment.d included (environment.d(5)).
		{Path: "/run/environment.d/00-vifproxy.conf", For: "services of users", Format: "env", Text: defaults(p, "", ":-"), Comment: "#"},
		// The latest name counts here too (systemd-system.conf(5)), and a unit's own Environment= before all.
		{Path: "/run/systemd/system.conf.d/00-vifproxy.conf", For: "services of the system", Format: "systemd", Text: systemd(p), Comment: "#"},
		// A later file counts, such as the 01qubes-proxy of Qubes for a template, and /etc/apt/apt.conf (apt.conf(5)).
		{Path: "/etc/apt/apt.conf.d/00vifproxy", For: "apt", Format: "apt", Text: apt(p), Comment: "//", Only: "/etc/apt"},
		// dnf 5 reads these files first, and /etc/dnf/dnf.conf, which is the user's, last (rpm-software-management/dnf5 #813). dnf 4
		// has only the latter, in which nothing of ours is: it reads the variables.
		{Path: "/etc/dnf/libdnf5.conf.d/00-vifproxy.conf", For: "dnf", Format: "dnf", Text: dnf(p), Comment: "#", Only: "/etc/dnf"},
	}, nil
}
