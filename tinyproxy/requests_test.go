package tinyproxy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vifproxy/internal/events"
	"vifproxy/internal/terminal"
)

const refusedLine = `NOTICE    Nov 23 07:31:08.180 [16035]: Proxying refused on filtered domain "%s"`

// said is a line of tinyproxy's.
func said(level, format string, args ...any) string {
	return fmt.Sprintf("%-9s Nov 23 07:31:08.180 [16035]: ", level) + fmt.Sprintf(format, args...)
}

// asks is a request line.
func asks(fd int, request string) string {
	return said("CONNECT", "Request (file descriptor %d): %s HTTP/1.1", fd, request)
}

// denials feeds lines to requests, and returns what is told, one a line.
func denials(c Config, wait time.Duration, lines ...string) string {
	var told []string
	r := NewRequests(&c, 0, func(d events.Denial) {
		text := fmt.Sprintf("%s %s %d", d.Reason, d.Host, d.Port)
		for _, more := range []string{d.What, map[bool]string{true: "waiting"}[d.Waiting], map[bool]string{true: "upstream"}[d.Upstream]} {
			if more != "" {
				text += " " + more
			}
		}
		if d.Reason == events.ReasonName {
			text += ": " + d.Why
		}
		told = append(told, text)
	}, func(string, uint16) {})
	for _, line := range lines {
		r.Line([]byte(line))
	}
	time.Sleep(wait)
	synctest.Wait()
	r.End()
	return strings.Join(told, "\n")
}

func TestWhatIsDeniedAndWhy(t *testing.T) {
	const cannot, noName = "opensock: Could not establish a connection to %s", "opensock: Could not retrieve address info for %s: %s"
	long := strings.Repeat("a", 700)
	opening := func(target string) string { return said("INFO", "opensock: opening connection to %s", target) }
	refused := func(port string) string { return said("INFO", "Refused CONNECT method on port %s", port) }
	corp := Config{Routes: []Route{{To: Upstream{"proxy.corp", 3128}}}}
	for _, c := range []struct {
		name   string
		config Config
		lines  []string
		want   string
	}{
		{"list", Config{}, []string{asks(4, "CONNECT a.example:443"), fmt.Sprintf(refusedLine, "a.example")}, "list a.example 443"},
		{"list, plain HTTP", Config{}, []string{asks(4, "GET http://u:p@a.example:8080/x?y"), fmt.Sprintf(refusedLine, "a.example")},
			"list a.example 8080"},
		{"list, host in a header", Config{}, []string{asks(4, "GET /"), fmt.Sprintf(refusedLine, "a.example")}, "list a.example 0"},
		{"list, request forgotten", Config{}, []string{fmt.Sprintf(refusedLine, `a" "b"`)}, `list a" "b" 0`},
		{"list, not printable", Config{}, []string{fmt.Sprintf(refusedLine, "\x1b[2J\r\xff")}, `list \x1b[2J\r\xff 0`},
		{"list, URLs", Config{Filter: Filter{URLs: true}},
			[]string{said("NOTICE", `Proxying refused on filtered url "http://a:8/?b"`)}, "list http://a:8/?b 8"},
		{"list, 1.10", Config{}, []string{`NOTICE    Nov  3 07:31:08 [1]: Proxying refused on filtered domain "a"`}, "list a 0"},
		{"list, cut", Config{}, []string{strings.TrimSuffix(fmt.Sprintf(refusedLine, long), `"`)}, "list " + long[:255] + " 0"},
		{"forged", Config{}, []string{" " + fmt.Sprintf(refusedLine, "x"), asks(4, fmt.Sprintf(refusedLine, "x")),
			said("NOTICE", refusedLine, "x"), said("CONNECT", `Proxying refused on filtered domain "x"`), "", "]: ", "INFO ]: "}, ""},

		{"port", Config{}, []string{asks(4, "CONNECT a.example:8443"), asks(5, "CONNECT b.example:443"), refused("8443")},
			"port a.example 8443"},
		{"ports, interleaved", Config{}, []string{asks(4, "CONNECT a.example:22"), asks(5, "CONNECT b.example:23"), refused("22"),
			refused("23")}, "port a.example 22\nport b.example 23"},
		{"port, IPv6", Config{}, []string{asks(4, "CONNECT [2001:db8::1]:22"), refused("22")}, "port 2001:db8::1 22"},
		{"port, another client since", Config{}, []string{asks(4, "CONNECT a.example:22"),
			said("CONNECT", "Connect (file descriptor 4): 10.137.0.9"), refused("22")}, "port  22"},
		{"port, 1.10 with its processes", Config{}, []string{asks(4, "CONNECT a.example:22"),
			strings.Replace(asks(4, "CONNECT b.example:23"), "[16035]", "[16036]", 1), refused("22"), refused("23")},
			"port a.example 22\nport b.example 23"},
		{"port, not a number", Config{}, []string{refused("x")}, ""},

		{"name", Config{}, []string{asks(4, "GET http://a.example/"), opening("a.example:80"),
			said("ERROR", noName, "a.example:80", "Name or service not known")}, "name a.example 80: Name or service not known"},
		{"name, 1.10", Config{}, []string{asks(4, "CONNECT a.example:443"), opening("a.example:443"),
			said("ERROR", "opensock: Could not retrieve info for a.example")},
			"name a.example 443: no name server has an address for it, or none answers"},
		{"connect", Config{}, []string{asks(4, "CONNECT a.example:443"), opening("a.example:443"),
			said("ERROR", cannot, "a.example:443")}, "connect a.example 443"},
		{"connect, IPv6", Config{}, []string{asks(4, "CONNECT [2001:db8::1]:443"), opening("2001:db8::1:443"),
			said("ERROR", cannot, "2001:db8::1:443")}, "connect 2001:db8::1 443"},
		{"connect, 1.10", Config{}, []string{asks(4, "CONNECT [2001:db8::1]:443"), opening("2001:db8::1:443"),
			said("ERROR", cannot, "2001:db8::1")}, "connect 2001:db8::1 443"},
		{"connect, host in a header", Config{}, []string{asks(4, "GET /"), opening("a.example:80"),
			said("ERROR", cannot, "a.example:80")}, "connect a.example 80"},
		{"connect, an Upstream", corp, []string{asks(4, "CONNECT a.example:443"),
			said("INFO", "Found upstream proxy http proxy.corp:3128 for a.example"), opening("proxy.corp:3128"),
			said("ERROR", cannot, "proxy.corp:3128"), said("WARNING", "Could not connect to upstream proxy.")},
			"connect proxy.corp 3128 upstream"},
		{"connect, closed", Config{}, []string{asks(4, "GET http://a.example/"), opening("a.example:80"),
			said("CONNECT", `Established connection to host "a.example" using file descriptor 5.`),
			said("INFO", `process_server_headers failed: Success. host "a.example" using file descriptor 5.`)},
			"connect a.example 80 closed"},
		{"connect, closed at once", Config{}, []string{asks(4, "GET http://a.example/"), opening("a.example:80"),
			said("CONNECT", `Established connection to host "a.example" using file descriptor 5.`),
			said("INFO", `process_client_headers failed: Broken pipe. host "a.example" using file descriptor 5.`)},
			"connect a.example 80 closed"},
		{"the AppVM has gone", Config{}, []string{asks(4, "GET http://a.example/"), opening("a.example:80"),
			said("CONNECT", `Established connection to host "a.example" using file descriptor 5.`),
			said("INFO", `process_server_headers failed: Broken pipe. host "a.example" using file descriptor 5.`)}, ""},
		{"all well", Config{BasicAuth: true}, []string{asks(4, "CONNECT a.example:443"), opening("a.example:443"),
			said("CONNECT", `Established connection to host "a.example" using file descriptor 5.`),
			said("INFO", "Closed connection between local client (fd:4) and remote client (fd:5)"),
			said("CONNECT", "Connect (file descriptor 4): 10.137.0.9")}, ""},

		{"full", Config{}, []string{said("WARNING", "Maximum number of connections reached. Refusing new connections.")}, "full  0"},
		{"template, Allow", Config{}, []string{said("NOTICE", `Unauthorized connection from "10.137.0.9".`)}, "template  0 Allow"},
		{"template, BasicAuth", Config{BasicAuth: true}, []string{asks(4, "CONNECT a.example:443")}, "template a.example 443 BasicAuth"},
		{"template, BasicAuth, the next comes", Config{BasicAuth: true}, []string{asks(4, "CONNECT a.example:443"),
			said("CONNECT", "Connect (file descriptor 4): 10.137.0.9"), asks(4, "CONNECT b.example:443"),
			fmt.Sprintf(refusedLine, "b.example")}, "template a.example 443 BasicAuth\nlist b.example 443"},
	} {
		synctest.Test(t, func(t *testing.T) {
			if got := denials(c.config, time.Hour, c.lines...); got != c.want {
				t.Errorf("%s: %q, want %q", c.name, got, c.want)
			}
		})
	}
}

// TestAHangingConnectionIsTold while it hangs, and once.
func TestAHangingConnectionIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := []string{asks(4, "CONNECT a.example:443"), said("INFO", "opensock: opening connection to a.example:443")}
		if got := denials(Config{}, connectPatience-1, open...); got != "" {
			t.Errorf("too early: %s", got)
		}
		if got := denials(Config{}, connectPatience, open...); got != "connect a.example 443 waiting" {
			t.Errorf("while it hangs: %q", got)
		}
		var n int
		r := Requests{config: &Config{}, onDeny: func(events.Denial) { n++ }}
		for _, line := range open {
			r.Line([]byte(line))
		}
		time.Sleep(2 * time.Minute)
		r.Line([]byte(said("ERROR", "opensock: Could not establish a connection to a.example:443")))
		if n != 1 || len(r.pending) != 0 {
			t.Errorf("told %d times, %d are remembered", n, len(r.pending))
		}
	})
}

// TestAFailureBesideAHangingConnectionIsTold though both are to one host, and only one of them fails.
func TestAFailureBesideAHangingConnectionIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []events.Denial
		r := Requests{config: &Config{}, onDeny: func(d events.Denial) { told = append(told, d) }}
		begin := func(fd int) {
			r.Line([]byte(asks(fd, "CONNECT a.example:443")))
			r.Line([]byte(said("INFO", "opensock: opening connection to a.example:443")))
		}
		failed := []byte(said("ERROR", "opensock: Could not establish a connection to a.example:443"))
		begin(4)
		time.Sleep(connectPatience)
		synctest.Wait()
		begin(5)
		r.Line(failed)
		if len(told) != 2 || told[1].Waiting {
			t.Errorf("told: %+v, want the one that hangs and the one that failed", told)
		}
		r.Line(failed)
		if len(told) != 2 || len(r.pending) != 0 {
			t.Errorf("told when the one that hung is over: %+v; %d are remembered", told, len(r.pending))
		}
	})
}

func TestRequestsOfAProxyAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Requests{config: &Config{BasicAuth: true}, onDeny: func(events.Denial) {}}
		for i := range 20_000 {
			r.Line([]byte(asks(i, fmt.Sprintf("CONNECT %0400d.example:443", i))))
			r.Line([]byte(said("INFO", "opensock: opening connection to %0400d:1", i)))
		}
		if len(r.pending) > pendingMax {
			t.Errorf("%d requests are remembered", len(r.pending))
		}
		r.End()
	})
}

// TestWhatTheTemplateWantsInTheLog is there, and no more, though tinyproxy says all.
func TestWhatTheTemplateWantsInTheLog(t *testing.T) {
	lines := map[string]string{}
	for _, level := range []string{"CRITICAL", "ERROR", "WARNING", "NOTICE", "CONNECT", "INFO"} {
		lines[level] = said(level, "text")
	}
	for level, want := range map[LogLevel]string{
		"critical": "CRITICAL", "error": "CRITICAL ERROR", "warning": "CRITICAL ERROR WARNING",
		"notice": "CRITICAL ERROR WARNING NOTICE", "connect": "CRITICAL ERROR WARNING NOTICE CONNECT",
		"info": "CRITICAL ERROR WARNING NOTICE CONNECT INFO", "": "CRITICAL ERROR WARNING NOTICE CONNECT INFO",
	} {
		var got []string
		for _, of := range []string{"CRITICAL", "ERROR", "WARNING", "NOTICE", "CONNECT", "INFO"} {
			if level.Wants([]byte(lines[of])) {
				got = append(got, of)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", level, got, want)
		}
		if !level.Wants([]byte("malloc(): corrupted")) {
			t.Errorf("%q drops what the C library says", level)
		}
	}
}

func FuzzLogLine(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(refusedLine, "example.org")))
	f.Add([]byte(fmt.Sprintf(refusedLine, "\x1b\"\r")))
	f.Add([]byte("CONNECT   Nov 23 07:31:08.180 [1]: Request (file descriptor 4): CONNECT [::1]:22 HTTP/1.1"))
	f.Add([]byte("ERROR     Nov 23 07:31:08.180 [1]: opensock: Could not establish a connection to a:1"))
	f.Add([]byte("\xff\x00\u202e"))
	f.Fuzz(func(t *testing.T, line []byte) {
		active := func(r rune) bool { return r < ' ' || 0x7f <= r && r < 0xa0 || r == '\u202e' }
		r := Requests{config: &Config{BasicAuth: true}, onDeny: func(d events.Denial) {
			if len(d.Host) > 4*hostMax || len(d.Why) > 4*hostMax || strings.ContainsFunc(d.Host+d.Why, active) {
				t.Errorf("%+v", d)
			}
		}}
		for range pendingMax + 1 {
			r.Line(line)
		}
		if len(r.pending) > pendingMax {
			t.Errorf("%d requests are remembered", len(r.pending))
		}
		r.End()
		shown := terminal.Escape(string(line))
		if strings.ContainsFunc(shown, active) {
			t.Errorf("%q is shown as %q", line, shown)
		}
		if terminal.Escape(shown) != shown {
			t.Errorf("%q does not stay", shown)
		}
	})
}

// Each connection is told with the host and the port of its request, behind an Upstream too. What was forgotten is told without them. The
// hosts that pass the filter are told before that, and what is refused is not among them.
func TestVisits(t *testing.T) {
	up := Upstream{"proxy.corp", 3128}
	c := Config{Routes: []Route{{Site: ".corp", To: up}}}
	var visited []string
	r := NewRequests(&c, 0, func(events.Denial) {}, func(host string, port uint16) { visited = append(visited, fmt.Sprintf("%s:%d", host, port)) })
	var passed []string
	r.OnPass(func(host string) { passed = append(passed, host) })
	for _, line := range []string{
		asks(4, "GET http://evil.example/"), said("NOTICE", `Proxying refused on filtered domain "evil.example"`),
		asks(5, "CONNECT a.example:443"), asks(6, "GET http://B.example:8080/x"), asks(7, "CONNECT c.corp:8443"), asks(8, "GET /y"),
		said("INFO", "opensock: opening connection to a.example:443"),
		said("INFO", "opensock: opening connection to proxy.corp:3128"),
		said("INFO", "opensock: opening connection to B.example:8080"),
		said("CONNECT", `Established connection to upstream proxy "proxy.corp" using file descriptor 9.`),
		said("CONNECT", `Established connection to host "B.example" using file descriptor 10.`),
		said("INFO", "opensock: opening connection to inheader.example:80"),
		said("CONNECT", `Established connection to host "a.example" using file descriptor 11.`),
		said("CONNECT", `Established connection to host "inheader.example" using file descriptor 12.`),
		said("CONNECT", `Established connection to host "forgotten.example" using file descriptor 13.`),
	} {
		r.Line([]byte(line))
	}
	if got, want := strings.Join(visited, " "), "c.corp:8443 B.example:8080 a.example:443 inheader.example:80 :0"; got != want {
		t.Errorf("visited %s, want %s", got, want)
	}
	r.Line([]byte(said("INFO", "opensock: opening connection to proxy.corp:3128"))) // nobody knows for whom
	if got, want := strings.Join(passed, " "), "a.example c.corp B.example inheader.example "; got != want {
		t.Errorf("passed %q, want %q", got, want)
	}
}
