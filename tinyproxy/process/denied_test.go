package process

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"vifproxy/internal/events"
	"vifproxy/tinyproxy"
)

// TestEveryFailureIsTold has the real tinyproxy fail for each reason, with a template that wants next to nothing logged.
func TestEveryFailureIsTold(t *testing.T) {
	var mu sync.Mutex
	var told []events.Denial
	l := newLauncher(t, func(o *Options) {
		o.OnDenied = func(d events.Denial) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, d)
		}
	})
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			conn.Close() // without an answer
		}
	}()
	port := silent.Addr().(*net.TCPAddr).Port
	serve := func(port uint16, more ...string) *Proxy {
		spec := newSpec(l, "social", port, append([]string{"ConnectPort 443", "LogLevel Critical"}, more...)...)
		spec.Rules = []tinyproxy.FilterLine{{Text: `^listed\.invalid$`, Number: 1}, {Text: "^127", Number: 2}}
		return start(t, l, realBinary, spec)
	}
	p := serve(61000)
	for request, want := range map[string]string{
		"CONNECT other.example:443":                            "list other.example 443",
		"CONNECT listed.invalid:8443":                          "port listed.invalid 8443",
		"GET http://listed.invalid/":                           "name listed.invalid 80",
		"GET http://127.0.0.1:1/":                              "connect 127.0.0.1 1",
		fmt.Sprintf("GET http://127.0.0.1:%d/", port):          fmt.Sprintf("connect 127.0.0.1 %d", port),
		"GET http://" + strings.Repeat("x", 300) + ".example/": "list " + strings.Repeat("x", 255) + " 0",
	} {
		mu.Lock()
		told = nil
		mu.Unlock()
		answer(t, p, request+" HTTP/1.0\r\n\r\n")
		until(t, want, func() string {
			mu.Lock()
			defer mu.Unlock()
			if len(told) == 0 {
				return ""
			}
			return fmt.Sprintf("%s %s %d", told[0].Reason, told[0].Host, told[0].Port)
		})
	}
	p.Kill()
	if log, err := os.ReadFile(l.options.RuntimeDir + "/social/log"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in the log there is, %v,\n%s", err, log)
	}
	mu.Lock()
	told = nil
	mu.Unlock()
	for want, more := range map[string][]string{
		"template  Allow":                   {"Allow 10.0.0.1"},
		"template listed.invalid BasicAuth": {"BasicAuth user password"},
		"full  ":                            {"MaxClients 1"},
	} {
		mu.Lock()
		told = nil
		mu.Unlock()
		p := serve(61001, more...)
		if strings.HasPrefix(want, "full") {
			first := dial(t, p.Spec.Listen)
			defer first.Close()
			second := dial(t, p.Spec.Listen)
			defer second.Close()
		} else {
			answer(t, p, "GET http://listed.invalid/ HTTP/1.0\r\n\r\n")
		}
		until(t, want, func() string {
			mu.Lock()
			defer mu.Unlock()
			if len(told) == 0 {
				return ""
			}
			return fmt.Sprintf("%s %s %s", told[0].Reason, told[0].Host, told[0].What)
		})
		p.Kill()
	}
}

// until waits for what is told.
func until(t *testing.T, want string, got func() string) {
	t.Helper()
	for ctx := bounded(t); got() != want; time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("told %q, want %q", got(), want)
		}
	}
}
