package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"vifproxy/control"
)

// formats are what programs in an AppVM read. What is put in is an address and a number, and, in comments
// only, a name that is made of letters, digits and "_.-".
var formats = map[string]*template.Template{
	"env": form(`# {{.Name}}: most programs of a shell. For all of them: /rw/config/rc.local can append
# these lines to /etc/environment.
{{range $name := .Variables}}{{$name}}=http://{{$.Proxy}}/
{{end}}no_proxy=localhost,127.0.0.1
NO_PROXY=localhost,127.0.0.1
`),
	// Names are those of Firefox' about:config; trr.mode 5 is "off by choice": the proxy resolves names.
	"firefox": form(`// {{.Name}}: append this to user.js in Firefox' profile folder (see about:profiles).
user_pref("network.proxy.type", 1);
user_pref("network.proxy.http", "{{.Host}}");
user_pref("network.proxy.http_port", {{.Port}});
user_pref("network.proxy.ssl", "{{.Host}}");
user_pref("network.proxy.ssl_port", {{.Port}});
user_pref("network.proxy.share_proxy_settings", true);
user_pref("network.proxy.no_proxies_on", "");
user_pref("network.trr.mode", 5);
`),
	"pac": form(`// {{.Name}}: a proxy auto-configuration file. Programs in the AppVM take it as file:///PATH.
function FindProxyForURL(url, host) {
	if (host === "localhost" || host === "127.0.0.1") return "DIRECT";
	return "PROXY {{.Proxy}}";
}
`),
}

func form(text string) *template.Template { return template.Must(template.New("").Parse(text)) }

// configure is the verb client.
func configure(c *call) error {
	format := formats[c.format]
	if format == nil {
		return usagef("--format=%s: want %s", c.format, strings.Join(slices.Sorted(maps.Keys(formats)), ", "))
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
	port := strconv.Itoa(status.Setup.ProxyPort)
	return format.Execute(c.stdout, map[string]any{
		"Name": vm.Name, "Host": gateway, "Port": port, "Proxy": net.JoinHostPort(gateway, port),
		"Variables": []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"},
	})
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
