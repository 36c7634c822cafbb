package main

import (
	"io"
	"strings"
	"testing"

	"vifproxy/supervisor"
)

func TestListenPorts(t *testing.T) {
	o, err := parseOptions([]string{"--listen-ports=9000-65535"}, io.Discard)
	if want := (supervisor.PortRange{First: 9000, Last: 65535}); err != nil || o.listenPorts != want {
		t.Errorf("%v, %v", o.listenPorts, err)
	}
	for _, bad := range []string{"", "61000", "61000-", "-64999", "0-64999", "64999-61000", "61000-65536", "61000-64999junk",
		"61000-64999 ", " 61000-64999", "61000 -64999", "+61000-64999", "61000-62000-64999", "0xee48-64999"} {
		_, err := parseOptions([]string{"--listen-ports=" + bad}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), "--listen-ports="+bad+": want FIRST-LAST, such as 61000-64999") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
