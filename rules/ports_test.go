package rules

import (
	"fmt"
	"strings"
	"testing"
)

// opened prints the ports of a file with their lines.
func opened(f File) string {
	var all []string
	for _, p := range f.Ports {
		all = append(all, fmt.Sprintf("%d:%d", p.Line, p.Number))
	}
	return strings.Join(all, " ")
}

func TestPortsOfAList(t *testing.T) {
	many := "#: port"
	for i := range PortsMax {
		many += fmt.Sprintf(" %d", 1000+i)
	}
	const names = "#: format domains\n"
	for _, c := range []struct{ content, ports, lines, err string }{
		{names + "git.example:22\n*.git.example:8443 # all\ngit.example\n", "2:22 3:8443",
			`2 ^git\.example\.?$ 3 ^([a-zA-Z0-9_-]+\.)+git\.example\.?$ 4 ^git\.example\.?$`, ""},
		{names + "192.0.2.1:8443\n192.0.2.2\n", "2:8443", `2 ^192\.0\.2\.1$ 3 ^192\.0\.2\.2$`, ""},
		{names + "[2001:DB8:0::1]:8443\n[::1]\n", "2:8443", `2 ^2001:db8::1$ 3 ^::1$`, ""},
		{names + "bücher.example:22\n#: port 8443\n", "2:22 3:8443", `2 ^xn--bcher-kva\.example\.?$`, ""},
		{"#: port 22 8443\n^a$\n  #:  port 563\r\n", "1:22 1:8443 3:563", "2 ^a$", ""},
		{"^a:22$\n", "", "", ""}, // a pattern as any other, which no host matches
		{many + "\n" + many + "\n", "", "", ""},
		{names + "a.example:0\n", "", "", `:2: "a.example:0" has no port from 1 to 65535`},
		{names + "a.example:65536\n", "", "", `has no port`},
		{names + "a.example:022\n", "", "", `has no port`},
		{names + "a.example:+22\n", "", "", `has no port`},
		{names + "a.example:\n", "", "", `has no port`},
		{names + "a.example:ssh\n", "", "", `has no port`},
		{names + "a.example:22:23\n", "", "", `is not a host name`},
		{names + "a.example:22/x\n", "", "", `is not a host name`},
		{names + "user@a.example:22\n", "", "", `is not a host name`},
		{names + "2001:db8::1\n", "", "", `is not a host name`},
		{names + "[2001:db8::1\n", "", "", `nor an IPv6 address in brackets`},
		{names + "[2001:db8::1]22\n", "", "", `nor an IPv6 address in brackets`},
		{names + "[fe80::1%eth0]:22\n", "", "", `nor an IPv6 address in brackets`},
		{names + "[::ffff:192.0.2.1]:22\n", "", "", `nor an IPv6 address in brackets`},
		{names + "[192.0.2.1]:22\n", "", "", `nor an IPv6 address in brackets`},
		{names + "*.192.0.2.1:22\n", "", "", `no names below it`},
		{"#: port\n", "", "", `unknown directive`},
		{"#: port 0\n", "", "", `:1: "0" is no port`},
		{"#: port 22, 23\n", "", "", `"22," is no port`},
		{"#: port 22-25\n", "", "", `"22-25" is no port`},
		{"#: port 70000\n", "", "", `"70000" is no port`},
		{"#: port 22 22\n", "", "", `port 22 twice in a line`},
		{many + " 2\n", "", "", `more than 32 different ports`},
		{many + "\n" + names + "a.example:22\n", "", "", `:3: more than 32 different ports`},
	} {
		f, err := ParseFile(somePath, []byte(c.content))
		if c.err != "" {
			checkError(t, c.content, err, c.err)
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.content, err)
			continue
		}
		if got := opened(f); got != c.ports && c.ports != "" {
			t.Errorf("%q opens %s, want %s", c.content, got, c.ports)
		}
		lines := strings.ReplaceAll(strings.TrimSpace(show(f, Syntax{})), "\n", " ")
		if lines != c.lines {
			t.Errorf("%q became %s, want %s", c.content, lines, c.lines)
		}
	}
}

// A black list cannot forbid a host at one port: what looks so is refused, and not taken for more or less.
func TestBlackListsForbidAtAllPorts(t *testing.T) {
	f, err := ParseFile(somePath, []byte("#: format domains\na.example:8443\n"))
	must(t, err)
	_, err = f.Lines(Syntax{DefaultAllow: true})
	checkError(t, "a port in a black list", err, `:2: "a.example:8443" has a port`)
	f, err = ParseFile(somePath, []byte("#: format domains\na.example\n#: port 8443\n"))
	must(t, err)
	if _, err := f.Lines(Syntax{DefaultAllow: true}); err != nil {
		t.Error(err)
	}
}

// What is added to allow a host with a port is what is removed to deny it, and no more.
func TestAllowedWithAPort(t *testing.T) {
	const names = "#: format domains\n"
	for _, c := range []struct {
		content, host, added, removed, left string
	}{
		{names, "git.example:22", "git.example:22", "", ""},
		{names + "git.example\n", "git.example:22", "git.example:22", "", ""},
		{names + "git.example:22 # ssh\nx\n", "git.example:22", "", "git.example:22 # ssh", names + "x\n"},
		{names + "git.example:22\ngit.example\n", "git.example:22", "", "git.example:22", names + "git.example\n"},
		{names + "git.example:22\n", "git.example:8443", "git.example:8443", "", ""},
		{names + "git.example:22\ngit.example\ngit.example:8443\n", "git.example", "", "git.example:22 git.example git.example:8443", names},
		{names + "192.0.2.1:22\n", "192.0.2.1:22", "", "192.0.2.1:22", names},
		{"", "git.example:22", `#: port 22 ^git\.example$`, "", ""},
		{"#: port 22\n", "git.example:22", `^git\.example$`, "#: port 22", ""},
		{"\ufeff#: port 22\r\n^git\\.example$\r\n# mine\r\n", "git.example:22", "", `^git\.example$ #: port 22`, "\ufeff# mine\r\n"},
		{"#: port 563 22 8443\n^git\\.example$", "git.example:22", "", `^git\.example$ #: port 22`, "#: port 563 8443\n"},
		{"#: port 22\n^git\\.example$\n", "git.example", "", `^git\.example$`, "#: port 22\n"},
		{`^192\.0\.2\.1$` + "\n", "192.0.2.1", "", `^192\.0\.2\.1$`, ""},
	} {
		f, err := ParseFile(somePath, []byte(c.content))
		must(t, err)
		host, err := ParseHost(c.host)
		must(t, err)
		if added := strings.Join(f.Lacks(Syntax{}, host), " "); added != c.added {
			t.Errorf("%q lacks %q for %s, want %q", c.content, added, c.host, c.added)
		}
		changed, removed := f.Without([]byte(c.content), Syntax{}, []Host{host})
		if got := strings.Join(removed, " "); got != c.removed {
			t.Errorf("%q: %q is removed for %s, want %q", c.content, got, c.host, c.removed)
		}
		if c.removed != "" && string(changed) != c.left {
			t.Errorf("%q without %s: %q, want %q", c.content, c.host, changed, c.left)
		}
		f, err = ParseFile(somePath, changed)
		must(t, err)
		added, err := ParseFile(somePath, Append(changed, f.Lacks(Syntax{}, host)))
		must(t, err)
		if lacks := added.Lacks(Syntax{}, host); lacks != nil {
			t.Errorf("%q lacks %q again", c.content, lacks)
		}
	}
}

// A host that no line names is in the file with its address, whatever has to be around it in a line.
func TestAnIPv6AddressThatIsAdded(t *testing.T) {
	for _, content := range []string{"#: format domains\n", "#: format patterns\n"} {
		f, err := ParseFile(somePath, []byte(content))
		must(t, err)
		h, err := ParseEntry("[2001:db8::1]:8443")
		must(t, err)
		written, err := ParseFile(somePath, Append([]byte(content), f.Lacks(Syntax{}, h)))
		must(t, err)
		want, err := written.Lines(Syntax{})
		must(t, err)
		got, err := f.With(Syntax{}, []Host{h}).Lines(Syntax{})
		must(t, err)
		if len(got) != 1 || len(want) != 1 || got[0].Text != want[0].Text || got[0].Text != "^2001:db8::1$" {
			t.Errorf("%q: %v, want %v", content, got, want)
		}
	}
}

// Hosts that are allowed for a time bring their ports.
func TestTemporaryPorts(t *testing.T) {
	for _, content := range []string{"#: format domains\n#: port 563\n", "#: port 563\n"} {
		f, err := ParseFile(somePath, []byte(content))
		must(t, err)
		more := f.With(Syntax{}, []Host{{Name: "git.example", Port: 22}, {Name: "a.example"}})
		if got, want := opened(more), opened(f)+" -1:22"; got != want {
			t.Errorf("%q: %s, want %s", content, got, want)
		}
		lines, err := more.Lines(Syntax{})
		if err != nil || len(lines) != 2 || lines[0].Line != -1 {
			t.Errorf("%q: %+v, %v", content, lines, err)
		}
	}
}
