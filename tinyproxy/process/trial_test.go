package process

import (
	"os"
	"path/filepath"
	"testing"

	"vifproxy/tinyproxy"
)

// How far a request has come is what tinyproxy logs last of it.
func TestStagesOfATrial(t *testing.T) {
	h := &heard{news: make(chan struct{}, 1)}
	for _, tt := range []struct {
		line string
		want tinyproxy.Stage
		why  string
	}{
		{"CONNECT   Nov 29 10:51:10.448 [8322]: Request (file descriptor 4): CONNECT a:443 HTTP/1.0", tinyproxy.Asked, ""},
		{"INFO      Nov 29 10:51:10.453 [8322]: opensock: opening connection to a:443", tinyproxy.Resolving, ""},
		{"INFO      Nov 29 10:51:10.456 [8322]: opensock: getaddrinfo returned for a:443", tinyproxy.Opening, ""},
		{"ERROR     Nov 29 10:51:11.199 [8322]: opensock: Could not establish a connection to a:443", tinyproxy.NoAnswer, ""},
	} {
		h.add(tt.line)
		if is, why := h.stage(); is != tt.want || why != tt.why {
			t.Errorf("after %q: %v %q", tt.line, is, why)
		}
	}
	h = &heard{news: make(chan struct{}, 1)}
	h.add("ERROR     Nov 29 10:51:12.123 [8322]: opensock: Could not retrieve address info for a:443: Name or service not known")
	h.add("WARNING   Nov 29 10:51:12.123 [8322]: Could not connect to upstream proxy.")
	if is, why := h.stage(); is != tinyproxy.Unknown || why != "Name or service not known" {
		t.Errorf("%v %q", is, why)
	}
}

// TestTrialThatDoesNotStart leaves nothing behind, whether its program cannot be run or ends at once.
func TestTrialThatDoesNotStart(t *testing.T) {
	l := newLauncher(t, nil)
	notExecutable := filepath.Join(openDir(t), "data")
	if err := os.WriteFile(notExecutable, []byte("data"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{notExecutable, script(t, "exit 3")} {
		r := tinyproxy.Request{Tunnel: true, Host: "a.example", Port: 443}
		if _, err := l.Try(bounded(t), program, newSpec(l, "social", 61021), r); err == nil {
			t.Errorf("%s serves", program)
		}
		if left := tree(t, l.options.RuntimeDir); left != "" {
			t.Errorf("left of %s: %s", program, left)
		}
	}
}
