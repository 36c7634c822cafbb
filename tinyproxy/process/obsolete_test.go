package process

import (
	"strings"
	"testing"

	"vifproxy/tinyproxy"
)

// A template may be for tinyproxy 1.10 as well: later ones have nothing to warn of, and a program that may be 1.10 gets what
// it needs.
func TestNoWarningsOfObsoleteDirectives(t *testing.T) {
	l := newLauncher(t, nil)
	spec := newSpec(l, "social", 61001, "StartServers 5", "MinSpareServers 5", "MaxSpareServers 20")
	lines := make(chan string, 100)
	spec.heard = func(line string) { lines <- line }
	start(t, l, realBinary, spec)
	for line, ctx := "", bounded(t); !strings.Contains(line, "Initializing"); { // comes after all that is said of the configuration
		select {
		case line = <-lines:
		case <-ctx.Done():
			t.Fatal("tinyproxy does not say that it begins")
		}
		if strings.Contains(line, "obsolete") {
			t.Error(line)
		}
	}
	if config := read(t, l.options.RuntimeDir, "social/61001/config"); strings.Contains(config, "Servers") {
		t.Errorf("the configuration is\n%s", config)
	}
	for said, old := range map[string]bool{
		"tinyproxy 1.10.0": true, "tinyproxy 1.11.1": false, "tinyproxy 1.11.2-5-g1234": false, "tinyproxy 1.12": false, "": true,
		"segmentation fault": true,
	} {
		var v versions
		program, err := tinyproxy.Identify(program(t, `echo "`+said+`"`))
		if err != nil {
			t.Fatal(err)
		}
		if got := v.isOld(t.Context(), program); got != old {
			t.Errorf("%q: %v", said, got)
		}
	}
}
