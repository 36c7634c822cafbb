package tinyproxy

import (
	"strings"
	"testing"
)

// A trial's configuration is the AppVM's, but for who asks and, if the request is no tunnel, to which ports tunnels may go.
func TestTrialText(t *testing.T) {
	const text = "Allow 10.0.0.1\nBasicAuth a b\nConnectPort 443\nFilter \"/rules\"\nFilterURLs Yes\nLogLevel Critical\nUpstream http a:1\n"
	for _, tt := range []struct {
		method     string
		unfiltered bool
		want       string
	}{
		{"CONNECT", false, "# # ConnectPort 443 Filter \"/rules\" FilterURLs Yes # Upstream http a:1 LogLevel Info "},
		{"GET", true, "# # # # # # Upstream http a:1 LogLevel Info "},
	} {
		if got := strings.ReplaceAll(TrialText(text, tt.unfiltered, tt.method), "\n", " "); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.method, got, tt.want)
		}
	}
}
