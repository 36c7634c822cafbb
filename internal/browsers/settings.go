package browsers

import (
	"net"
	"strconv"
	"strings"
)

// A Setting is a preference or a policy of a browser, and why it is as it is.
type Setting struct {
	Name  string
	Value any // as encoding/json writes it
	Why   string
}

// A Proxy is where a browser finds its proxy.
type Proxy struct {
	Host string // an address
	Port int
}

func (p Proxy) String() string { return net.JoinHostPort(p.Host, strconv.Itoa(p.Port)) }

// object returns settings as the JSON object that they are.
func object(settings []Setting) map[string]any {
	values := map[string]any{}
	for _, s := range settings {
		values[s.Name] = s.Value
	}
	return values
}

// FirefoxPreferences returns lines of about:config for user.js: the proxy, and an end to requests that nobody asked for.
func FirefoxPreferences(p Proxy) []Setting {
	return append([]Setting{
		{"network.proxy.type", 1, "the proxy that is named below"},
		{"network.proxy.http", p.Host, "for http://"},
		{"network.proxy.http_port", p.Port, "for http://"},
		{"network.proxy.ssl", p.Host, "for https://"},
		{"network.proxy.ssl_port", p.Port, "for https://"},
		{"network.proxy.share_proxy_settings", true, "one proxy for all"},
		{"network.proxy.no_proxies_on", "", "nothing passes it by"},
		{"network.trr.mode", 5, "no DNS over HTTPS (5: off by choice): the proxy resolves names"},
	}, firefoxQuiet...)
}

// FirefoxPolicy returns what /etc/firefox/policies/policies.json holds.
func FirefoxPolicy(p Proxy) map[string]any {
	preferences := map[string]any{}
	for _, s := range firefoxQuiet {
		if mayBePolicy(s.Name) {
			preferences[s.Name] = map[string]any{"Value": s.Value, "Status": "locked"}
		}
	}
	policies := object(firefoxPolicies)
	policies["Proxy"] = map[string]any{"Mode": "manual", "Locked": true, "HTTPProxy": p.String(),
		"UseHTTPProxyForAllProtocols": true, "Passthrough": ""}
	policies["Preferences"] = preferences
	return map[string]any{"policies": policies}
}

// mayBePolicy reports whether Firefox takes a preference from its policy "Preferences": it has a list of what it takes, and
// calls the rest unstable (Policies.sys.mjs, Preferences, allowedPrefixes of 153). Policies of their own are for that.
func mayBePolicy(preference string) bool {
	for _, prefix := range []string{"browser.", "dom.", "extensions.", "geo.", "media.", "network.", "signon.", "security.OCSP."} {
		if strings.HasPrefix(preference, prefix) {
			return true
		}
	}
	return false
}

// ChromiumPolicy returns what a file in /etc/chromium/policies/managed holds.
func ChromiumPolicy(p Proxy) map[string]any {
	policies := object(chromiumPolicies)
	policies["ProxySettings"] = map[string]any{"ProxyMode": "fixed_servers", "ProxyServer": "http://" + p.String(),
		"ProxyBypassList": ""}
	return policies
}
