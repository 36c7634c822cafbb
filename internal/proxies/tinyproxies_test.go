package proxies

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/internal/policy"
	"vifproxy/internal/policy/policytest"
	"vifproxy/tinyproxy"
	proc "vifproxy/tinyproxy/process"
)

// serve starts a proxy with the policy as the daemon does; what it permits goes to an upstream that says 200.
func serve(t *testing.T, proxies *Tinyproxies, p *policy.Policy, port uint16) (proxy Proxy, ok bool) {
	t.Helper()
	proxy, err := proxies.Start(t.Context(), p, port)
	if IsBad(err) {
		return nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return proxy, true
}

func status(t *testing.T, at netip.AddrPort, q tinyproxy.Request) int {
	t.Helper()
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s HTTP/1.0\r\n\r\n", q.Line())
	reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%v: %v", q, err)
	}
	return reply.StatusCode
}

func upstream(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(conn)
			for line := "-"; strings.Trim(line, "\r\n") != "" && err == nil; {
				line, err = r.ReadString('\n')
			}
			_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return "Upstream http " + l.Addr().String()
}

// TestExplainAgreesWithTheProxies: for thousands of pairs of a pattern and a host, a proxy that has this one line, started
// as the daemon starts it, says whether they match. Explaining a file of these lines must come to the same, line by line.
func TestExplainAgreesWithTheProxies(t *testing.T) {
	dir, err := os.MkdirTemp("/run", "vifproxy-explain-") // proxies must be able to pass it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	launcher, err := proc.NewLauncher(proc.Options{
		RuntimeDir: filepath.Join(dir, "run"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(launcher.Close)
	proxies := &Tinyproxies{binary: policytest.RealBinary, launcher: launcher, slots: make(chan struct{}, 1)}
	via := upstream(t)
	n := rand.Uint32()
	bind := netip.AddrFrom4([4]byte{127, 1 + byte(n)%254, byte(n >> 8), 1 + byte(n>>16)%254})
	port := uint16(61000)

	random := rand.New(rand.NewPCG(6, 4))
	pick := func(from string) string {
		words := strings.Fields(from)
		return words[random.IntN(len(words))]
	}
	var questions []tinyproxy.Request
	for len(questions) < 68 {
		host := pick("www a b example bank com")
		for range random.IntN(4) {
			host += pick(". . . - x") + pick("www a b example bank com EXAMPLE 1")
		}
		questions = append(questions, tinyproxy.Request{Host: host, Port: 80, URI: "/"})
	}
	const patterns, perFile = 50, 10
	pairs, matching := 0, 0
	for _, language := range []struct{ directive, parts string }{
		{"# basic", `a b www example bank com \. \. . - [ab] [^.] [[:alpha:]]* .* ^ $ \(a\|b\) \(www\.\)* a\{1,2\} | x \+`},
		{"FilterExtended On", `a b www example bank com \. \. . - [ab] [^.] [[:alpha:]]+ .* ^ $ (a|b) (www\.)? a{1,2} x`},
		{"FilterType fnmatch", `a b www example bank com . . * * ? - [ab] [!.] [[:alpha:]]* \. x`},
	} {
		directives := []string{"FilterDefaultDeny Yes", language.directive, via}
		var lines []string
		var want [][]bool // by line, then question
		for len(lines) < patterns {
			pattern := pick("^ .* a www")
			for range 1 + random.IntN(5) {
				pattern += pick(language.parts)
			}
			proxy, ok := serve(t, proxies, policytest.Of(t, bind, []string{pattern}, directives...), port)
			if port++; !ok {
				continue // a bad regex
			}
			answers := make([]bool, len(questions))
			for i, q := range questions {
				code := status(t, netip.AddrPortFrom(bind, port-1), q)
				if code != 200 && code != 403 {
					t.Fatalf("%v: status %d", q, code)
				}
				answers[i] = code == 200
				if pairs++; answers[i] {
					matching++
				}
			}
			proxy.Kill()
			lines, want = append(lines, pattern), append(want, answers)
		}
		for from := 0; from < patterns; from += perFile {
			p := policytest.Of(t, bind, lines[from:from+perFile], directives...)
			for i, q := range questions {
				got, err := p.Matching(t.Context(), q, perFile)
				if err != nil {
					t.Fatal(err)
				}
				matched := make(map[int]bool) // by number of the line
				for _, k := range got {
					matched[p.Rules[k].Number] = true
				}
				for k := range perFile {
					if matched[k+1] != want[from+k][i] {
						t.Errorf("%s: %s matches %s: explained %v, proxy %v", language.directive, lines[from+k], q.Line(),
							!want[from+k][i], want[from+k][i])
					}
				}
			}
		}
	}
	t.Logf("%d pairs, %d of them matching", pairs, matching)
	if pairs < 10000 || matching < pairs/20 {
		t.Errorf("only %d pairs, %d of them matching", pairs, matching)
	}
}
