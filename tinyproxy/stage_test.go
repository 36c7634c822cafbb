package tinyproxy

import (
	"strings"
	"testing"
)

// A trial's configuration is the AppVM's, but for who asks and, if the request is no tunnel, to which ports tunnels may go.
func TestTrialText(t *testing.T) {
	const text = "Allow 10.0.0.1\nBasicAuth a b\nConnectPort 443\nFilter \"/rules\"\nFilterURLs Yes\nLogLevel Critical\nUpstream http a:1\n"
	for _, tt := range []struct {
		tunnel, unfiltered bool
		want               string
	}{
		{true, false, "# # ConnectPort 443 Filter \"/rules\" FilterURLs Yes # Upstream http a:1 LogLevel Info "},
		{false, true, "# # # # # # Upstream http a:1 LogLevel Info "},
	} {
		if got := strings.ReplaceAll(TrialText(text, tt.unfiltered, tt.tunnel), "\n", " "); got != tt.want {
			t.Errorf("tunnel %t: %q, want %q", tt.tunnel, got, tt.want)
		}
	}
}
