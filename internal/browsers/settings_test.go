package browsers

import (
	"encoding/json"
	"strings"
	"testing"
)

// Each setting stands once, with a reason that fits on its line.
func TestEachSettingHasItsReason(t *testing.T) {
	for browser, settings := range map[string][]Setting{"Firefox": FirefoxPreferences(Proxy{"10.138.1.1", 8100}),
		"Firefox' policies": firefoxPolicies, "Chromium's policies": chromiumPolicies} {
		seen := map[string]bool{}
		for _, s := range settings {
			if seen[s.Name] || s.Why == "" || strings.ContainsAny(s.Why, "\n\r") {
				t.Errorf("%s: %+v", browser, s)
			}
			seen[s.Name] = true
		}
	}
}

// What a policy says about the proxy is locked, and the preferences with it are the same as in user.js.
func TestPoliciesLockTheProxy(t *testing.T) {
	p := Proxy{"10.138.1.1", 8100}
	text, err := json.Marshal(FirefoxPolicy(p))
	if err != nil {
		t.Fatal(err)
	}
	var firefox struct {
		Policies struct {
			Proxy struct {
				Mode, HTTPProxy             string
				Locked                      bool
				UseHTTPProxyForAllProtocols bool
			}
			Preferences map[string]struct {
				Value  any
				Status string
			}
		} `json:"policies"`
	}
	if err := json.Unmarshal(text, &firefox); err != nil {
		t.Fatal(err)
	}
	if got := firefox.Policies.Proxy; got.Mode != "manual" || got.HTTPProxy != "10.138.1.1:8100" || !got.Locked ||
		!got.UseHTTPProxyForAllProtocols {
		t.Errorf("%+v", got)
	}
	taken := 0
	for _, s := range firefoxQuiet {
		if got, ok := firefox.Policies.Preferences[s.Name]; ok {
			taken++
			if got.Status != "locked" {
				t.Errorf("%s: %+v", s.Name, got)
			}
		}
	}
	if taken == 0 || taken != len(firefox.Policies.Preferences) {
		t.Errorf("%d of %d preferences", taken, len(firefox.Policies.Preferences))
	}
	chromium := ChromiumPolicy(p)["ProxySettings"].(map[string]any)
	if chromium["ProxyMode"] != "fixed_servers" || chromium["ProxyServer"] != "http://10.138.1.1:8100" {
		t.Errorf("%+v", chromium)
	}
}
