package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startTinyproxy runs the real tinyproxy in the firewall VM, for everybody, and opens the way to it.
func startTinyproxy(t *testing.T, l *Lab, filter string) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "config")
	rules := filepath.Join(dir, "rules")
	text := fmt.Sprintf("Port %d\nListen %v\nTimeout 60\nMaxClients 20\nFilter %q\nFilterDefaultDeny Yes\n"+
		"LogLevel Info\nConnectPort 443\n", ProxyPort, Gateway, rules)
	for path, content := range map[string]string{config: text, rules: filter} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if l.Ruleset == R42 {
		output(t, l, "nft", "add", "rule", "ip", "qubes", "custom-input", "tcp", "dport", "8100", "accept")
	} else {
		output(t, l, "iptables", "-I", "INPUT", "-p", "tcp", "--dport", "8100", "-j", "ACCEPT")
	}
	cmd := l.Command(t.Context(), "tinyproxy", "-d", "-c", config)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && !strings.Contains(lines.Text(), "Accepting connections") {
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(io.Discard, stdout) //nolint:errcheck // until tinyproxy ends
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		<-drained
		cmd.Wait()
	})
}

func TestProxyServesOrigins(t *testing.T) {
	eachRuleset(t, func(t *testing.T, r Ruleset) {
		l := newLab(t, Options{Ruleset: r}, personal)
		startTinyproxy(t, l, "^bank\\.example$\n^echo\\.example$\n")
		for _, scheme := range []string{"http", "https"} {
			got := l.Get("personal", scheme+"://bank.example/account")
			if want := (Result{Status: 200, Body: "hello from bank.example, page /account\n"}); got != want {
				t.Errorf("%s: got %+v, want %+v", scheme, got, want)
			}
			if got := l.Get("personal", scheme+"://evil.example/"); got.Status != 403 {
				t.Errorf("%s: got %+v for a host that is not listed, want status 403", scheme, got)
			}
		}
		for host, want := range map[string]int{"bank.example": 2, "evil.example": 0} {
			if n, err := l.Reached(host, 0); n != want || err != nil {
				t.Errorf("%s was reached %d times (%v), want %d", host, n, err, want)
			}
		}

		reply, err := l.Client("personal").Get("http://bank.example/stream")
		if err != nil {
			t.Fatal(err)
		}
		defer reply.Body.Close()
		lines := bufio.NewScanner(reply.Body)
		for n := 1; n <= 3; n++ {
			if want := fmt.Sprintf("line %d from bank.example", n); !lines.Scan() || lines.Text() != want {
				t.Errorf("the stream says %q, want %q", lines.Text(), want)
			}
		}

		tunnel, err := l.Dial(t.Context(), "personal", "tcp4", Gateway.String()+":8100")
		if err != nil {
			t.Fatal(err)
		}
		defer tunnel.Close()
		if err := tunnel.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(tunnel, "CONNECT echo.example:443 HTTP/1.1\r\nHost: echo.example\r\n\r\n")
		in := bufio.NewReader(tunnel)
		opened, err := http.ReadResponse(in, nil)
		if err != nil || opened.StatusCode != 200 {
			t.Fatal("no tunnel:", opened, err)
		}
		for _, said := range []string{"one\n", "two\n"} {
			fmt.Fprint(tunnel, said)
			if heard, err := in.ReadString('\n'); heard != said || err != nil {
				t.Errorf("said %q, heard %q, %v", said, heard, err)
			}
		}
	})
}

func TestEveryOutsideAddressAnswers(t *testing.T) {
	l := newLab(t, Options{}, personal)
	for _, n := range outside {
		addr := n.Addr().Next().Next().Next().String() + ":22"
		err := l.Do(func() error {
			conn, err := net.DialTimeout("tcp4", addr, 10*time.Second)
			if err != nil {
				return err
			}
			defer conn.Close()
			greeting, err := bufio.NewReader(conn).ReadString('\n')
			if !strings.HasPrefix(greeting, "SSH-2.0-") {
				return fmt.Errorf("got %q, %v", greeting, err)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// A t.Fatal inside Do must not leave the test waiting.
func TestDoSurvivesAnEndedGoroutine(t *testing.T) {
	l := newLab(t, Options{})
	if err := l.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("Do reports nothing of a function that did not return")
	}
}

// A host with a handler serves what that says, by name and by address, and offers HTTP/2; programs in an AppVM find it by its
// name.
func TestServe(t *testing.T) {
	l := newLab(t, Options{}, personal)
	l.Host("own.example", netip.MustParseAddr("203.0.113.8"))
	for _, host := range []string{"own.example", "203.0.113.8"} {
		l.Serve(host, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, host, r.Proto) }))
	}
	for url, want := range map[string]string{
		"https://own.example/":   "own.exampleHTTP/2.0",
		"https://203.0.113.8/":   "203.0.113.8HTTP/2.0",
		"http://own.example/":    "own.exampleHTTP/1.1",
		"https://other.example/": "hello from other.example, page /\n",
	} {
		got, err := l.VMCommand(t.Context(), "personal", "curl", "-sk", url).CombinedOutput()
		if err != nil || string(got) != want {
			t.Errorf("curl %s: %q, %v, want %q", url, got, err, want)
		}
	}
}

// Name servers answer in the manner that they are told to.
func TestMannersOfNameServers(t *testing.T) {
	l := newLab(t, Options{})
	addr := netip.MustParseAddr("203.0.113.9")
	ask := func(server netip.Addr) (addrs []netip.Addr, took time.Duration, err error) {
		return l.Question(0, server, "bank.example")
	}
	l.HostFor(7, "bank.example", func() []netip.Addr { return []netip.Addr{addr} })
	const late = 50 * time.Millisecond
	for _, m := range []Manner{{}, {Late: late}, {NoIPv6: true}, {}} {
		if err := l.Answer(m, NameServers[0]); err != nil {
			t.Fatal(err)
		}
		if addrs, took, err := ask(NameServers[0]); err != nil || !slices.Equal(addrs, []netip.Addr{addr}) || took < m.Late {
			t.Errorf("%+v: %v, %v, after %v", m, addrs, err, took)
		}
	}
	if err := l.Answer(Manner{Dead: true}, NameServers[0]); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ask(NameServers[0]); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a dead server: %v", err)
	}
	if addrs, _, err := ask(NameServers[1]); err != nil || len(addrs) != 1 {
		t.Errorf("the other server: %v, %v", addrs, err)
	}
	if err := l.Answer(Manner{}, NameServers[0]); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ask(NameServers[0]); err != nil {
		t.Errorf("it lives again: %v", err)
	}
}
