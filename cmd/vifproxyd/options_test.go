package main

import (
	"io"
	"strings"
	"testing"

	"vifproxy/internal/proxies"
	"vifproxy/qubes"
)

func TestListenPorts(t *testing.T) {
	o, err := parseOptions([]string{"--listen-ports=9000-65535"}, io.Discard)
	if want := (proxies.PortRange{First: 9000, Last: 65535}); err != nil || o.listenPorts != want {
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

// systemd starts the daemon again each second: what is wrong with its options is one line, and no page.
func TestWrongOptionIsOneLine(t *testing.T) {
	for arg, want := range map[string]string{
		"--ruls-dir=/etc/x":   "there is no option --ruls-dir: did you mean --rules-dir?",
		"--frobnicate":        "there is no option --frobnicate; see `vifproxyd --help`",
		"--log-level=verbose": "--log-level=verbose: want debug, info, warn or error",
		"--drain=10":          "--drain=10: want a time with its unit, such as 30s, 10m or 1h30m",
		"--proxy-port=0":      "--proxy-port=0: want a TCP port, 1 to 65535",
		"--proxy-port=61000":  "--proxy-port=61000 is within --listen-ports=61000-64999",
		"--drain=-1s":         "--drain=-1s: want 0s or more",
		"--firewall=pf":       "--firewall=pf: want auto, nftables or iptables",
		"--on-owned=":         "--on-owned=: want log or hold",
		"banking":             `unexpected argument "banking"; see ` + "`vifproxyd --help`",
	} {
		var help strings.Builder
		_, err := parseOptions([]string{arg}, &help)
		if err == nil || err.Error() != want || help.Len() > 0 {
			t.Errorf("%s: %v\nwant %s\nhelp: %s", arg, err, want, help.String())
		}
	}
}

// Clients take the socket of QubesDB that the daemon names, and say that lists in dom0 do not count if it names none.
func TestClientsLearnWhetherDom0Counts(t *testing.T) {
	for option, want := range map[string]string{"": qubes.Socket, "--qubesdb=/run/other.sock": "/run/other.sock", "--qubesdb=off": ""} {
		o, err := parseOptions(strings.Fields(option), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		d := parts{options: o, way: &way{}}
		if got := d.setup().QubesDB; got != want || (o.dom0() == nil) != (want == "") {
			t.Errorf("%s: clients learn %q, want %q; the daemon reads %v", option, got, want, o.dom0())
		}
	}
}
