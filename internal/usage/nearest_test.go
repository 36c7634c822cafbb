package usage

import (
	"strings"
	"testing"
)

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "show", 4}, {"show", "show", 0}, {"shwo", "show", 2}, {"sart", "start", 1},
		{"updates", "update", 1}, {"kitten", "sitting", 3}} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("from %q to %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if distance(tt.a, tt.b) != distance(tt.b, tt.a) {
			t.Errorf("%q and %q: not the same both ways", tt.a, tt.b)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"show", "stop", "start"}
	for word, want := range map[string]string{"shwo": "show", "stat": "start", "": "", "frobnicate": "", "stop": "stop", "x": "", "sow": "show"} {
		if got := Nearest(word, known); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestNearestName(t *testing.T) {
	known := []string{"banking", "work", "disp-10.138.0.3"}
	for typed, want := range map[string]string{"bnking": "banking", "banking.10.137.0.11": "banking", "wrok.10.137.000.11": "work", "Work": "work",
		"disp-10.138.0.4": "disp-10.138.0.3", "frobnicate": "", "": "", strings.Repeat("b", 65): ""} {
		if got := NearestName(typed, known); got != want {
			t.Errorf("%q: %q, want %q", typed, got, want)
		}
	}
}
