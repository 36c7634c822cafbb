package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// connect sends a CONNECT through an AppVM's proxy, and returns what comes until the text is among it, or the end.
func (s *site) connect(vm, target, until string) string {
	s.Helper()
	said, err := s.tryConnect(vm, target, until)
	s.must(err)
	return said
}

// tryConnect does the same, and returns an error if the proxy cannot be reached.
func (s *site) tryConnect(vm, target, until string) (said string, err error) {
	conn, err := s.Dial(s.Context(), vm, "tcp", fmt.Sprintf("%s:%d", lab.Gateway, lab.ProxyPort))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	s.must(conn.SetDeadline(time.Now().Add(patience)))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.0\r\n\r\n", target)
	buffer := make([]byte, 1024)
	for !strings.Contains(said, until) {
		n, err := conn.Read(buffer)
		if said += string(buffer[:n]); err != nil {
			break
		}
	}
	return said, nil
}

// greeted checks that a tunnel of the AppVM to an SSH server gets that server's greeting.
func (s *site) greeted(vm, target string) {
	s.Helper()
	if said := s.connect(vm, target, "SSH-2.0-"); !strings.Contains(said, "SSH-2.0-") {
		s.Errorf("%s: %s greets with %q", vm, target, said)
	}
}

// connectStatus is what the AppVM's proxy answers to CONNECT.
func (s *site) connectStatus(vm, target string) string {
	s.Helper()
	return statusOf(s.connect(vm, target, "\r\n"))
}

func statusOf(answer string) string {
	_, status, _ := strings.Cut(answer, " ")
	return status[:min(len(status), 3)]
}

// untilForbidden waits until the AppVM's proxy answers 403 to CONNECT. A connection that the proxy before had accepted may be cut at
// any moment until then, also before the client has looked whether it stands (EPIPE).
func (s *site) untilForbidden(what, vm, target string) {
	s.Helper()
	s.until(what, func() error {
		if said, err := s.tryConnect(vm, target, "\r\n"); err != nil || statusOf(said) != "403" {
			return fmt.Errorf("%q, %v", said, err)
		}
		return nil
	})
}

// goesOn checks that a tunnel in which nothing is said has not ended.
func (s *site) goesOn(conn net.Conn) {
	s.Helper()
	s.must(conn.SetDeadline(time.Now().Add(300 * time.Millisecond)))
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, os.ErrDeadlineExceeded) {
		s.Errorf("the tunnel has ended: %v", err)
	}
}

// A port that a list opens is open for that AppVM: for tunnels, for plain requests, in its fence and its sandbox. It is
// closed for the others, and when the line goes.
func TestAPortBelongsToAList(t *testing.T) {
	onBoth(t, func(s *site) {
		s.Host("lan.example", netip.MustParseAddr("10.9.8.7"))
		other := []string{"#: format domains", "bank.example", "git.example", "lan.example"}
		lists := map[string][]string{
			"names":      {"#: format domains", "bank.example:8443", "git.example:22", "lan.example"},
			"below":      {"#: format domains", "*.example:8443", "*.example:22"},
			"directive":  {"#: format domains", "#: port 22 8443", "bank.example", "git.example", "lan.example"},
			"patterns":   {"#: port 22", `^bank\.example$`, `^git\.example$`, `^lan\.example$`, "#: port 8443"},
			"no tunnels": {"#: port 8443 22", `example$`}, // with a template whose ConnectPort is 0
			"any tunnel": {"#: port 8443 22", `example$`}, // with a template that has no ConnectPort
		}
		s.rules("other.10.137.0.12", other...)
		s.rules("work.10.137.0.11", other...)
		s.start()
		s.attach("work", "10.137.0.11")
		s.attach("other", "10.137.0.12")
		s.opens("work", "https://bank.example/")
		s.opens("other", "https://bank.example/")
		closed := func(vm, why string) {
			s.Helper()
			for _, target := range []string{"git.example:22", "bank.example:8443"} {
				if got := s.connectStatus(vm, target); got != "403" {
					s.Errorf("%s: %s gets %s for a tunnel to %s", why, vm, got, target)
				}
			}
			for _, page := range []string{"http://bank.example:8443/", "http://git.example:22/"} {
				if r := s.Get(vm, page); r.Status != 500 {
					s.Errorf("%s: %s gets %d for %s", why, vm, r.Status, page)
				}
			}
		}
		closed("work", "nothing opened")
		for name, lines := range lists {
			switch name {
			case "no tunnels":
				s.template("ConnectPort 443", "ConnectPort 0")
			case "any tunnel":
				s.template("ConnectPort 443", "")
			}
			s.rules("work.10.137.0.11", lines...)
			s.update()
			s.must(s.page("work", "https://bank.example:8443/"))
			s.greeted("work", "git.example:22")
			s.greeted("work", "bank.example:22") // as tinyproxy ties no port to a host
			if name != "no tunnels" {
				s.must(s.page("work", "https://bank.example/"))
			}
			s.must(s.page("work", "http://bank.example/"))
			if r := s.Get("work", "http://bank.example:8443/"); r.Status == 500 || r.Status == 403 { // the server speaks TLS, and likes no HTTP
				s.Errorf("%s: %+v", name, r)
			}
			for _, target := range []string{"lan.example:22", "lan.example:8443"} { // not a public address
				if got := s.connectStatus("work", target); got != "500" {
					s.Errorf("%s: %s for a tunnel to %s", name, got, target)
				}
			}
			if name != "any tunnel" {
				if got := s.connectStatus("work", "git.example:23"); got != "403" {
					s.Errorf("%s: %s for a tunnel to another port", name, got)
				}
				closed("other", name)
			} else if got := s.connectStatus("other", "git.example:22"); got != "500" {
				s.Errorf("%s: other gets %s for a tunnel that the fence refuses", name, got)
			}
			if out, _, _ := s.ctl("explain", "other", "git.example:22"); !strings.Contains(out, "is refused") {
				s.Errorf("%s: %s", name, out)
			}
			if name == "no tunnels" || name == "any tunnel" {
				s.removeRules("config")
				s.update()
			}
		}

		// A port that is added cuts nothing, one that is removed ends what went through it.
		s.rules("work.10.137.0.11", "#: format domains", "bank.example", "git.example:22")
		s.update()
		first := s.tunnel("work", "git.example:22")
		s.rules("work.10.137.0.11", "#: format domains", "bank.example:8443", "git.example:22")
		s.update()
		second := s.tunnel("work", "bank.example:8443")
		s.goesOn(first)
		s.rules("work.10.137.0.11", "#: format domains", "bank.example:8443", "git.example")
		s.cut(first)
		s.cut(second) // the same process
		s.untilForbidden("the port is closed", "work", "git.example:22")
		s.must(s.page("work", "https://bank.example:8443/"))
		s.stop()
	})
}

// README's example: a line for an address and a port opens tunnels to that port too, for that AppVM alone, and nowhere
// else.
func TestEgressOpensTunnels(t *testing.T) {
	onBoth(t, func(s *site) {
		s.Host("home.example", netip.MustParseAddr("192.168.1.5"))
		s.Host("away.example", netip.MustParseAddr("10.9.8.7"))
		s.rules("work.10.137.0.11", "#: format domains", "home.example", "away.example", "bank.example", "#: egress 192.168.1.5/32:8443")
		s.rules("other.10.137.0.12", "#: format domains", "home.example", "bank.example")
		s.start("--egress-allow=10.9.8.0/24:22")
		s.attach("work", "10.137.0.11")
		s.attach("other", "10.137.0.12")
		s.opens("work", "http://bank.example/", "https://home.example:8443/")
		s.opens("other", "http://bank.example/")
		s.refuses("other", "https://home.example:8443/")
		s.greeted("work", "away.example:22")
		for target, want := range map[string]string{"bank.example:8443": "500", "bank.example:22": "500", "home.example:22": "500"} {
			if got := s.connectStatus("work", target); got != want {
				t.Errorf("work gets %s for a tunnel to %s, want %s", got, target, want)
			}
		}
		said := s.on(0, "explain", "work", "https://home.example:8443/")
		if !strings.Contains(said, "the port is opened by "+filepath.Join(s.rulesDir(), "work.10.137.0.11")+":5: #: egress 192.168.1.5/32:8443") {
			t.Error(said)
		}
		if said := s.on(0, "explain", "work", "away.example:22"); !strings.Contains(said, "the port is opened by --egress-allow") {
			t.Error(said)
		}
		s.stop()
	})
}

// What explain offers for a port works when it is tried, for each kind of list, and for this AppVM only.
func TestWhatIsOfferedForAPortWorks(t *testing.T) {
	onBoth(t, func(s *site) {
		s.Host("home.example", netip.MustParseAddr("192.168.1.5"))
		lists := map[string][]string{
			"names":    {"#: format domains", "*.example"},
			"patterns": {`^[a-z]*\.example$`},
		}
		s.rules("work.10.137.0.11", lists["names"]...)
		s.rules("other.10.137.0.12", lists["names"]...)
		s.start()
		s.attach("work", "10.137.0.11")
		s.attach("other", "10.137.0.12")
		s.opens("other", "http://bank.example/")
		for name, list := range lists {
			for _, tt := range []struct{ request, names, patterns string }{
				{"https://bank.example:8443/", "bank.example:8443", "#: port 8443"},
				{"ssh.example:22", "ssh.example:22", "#: port 22"},
				{"http://bank.example:8443/", "bank.example:8443", "#: port 8443"},
				{"ws://bank.example/", "bank.example:80", "#: port 80"},
				{"https://home.example:8443/", "#: egress 192.168.1.5/32:8443", "#: egress 192.168.1.5/32:8443"},
				{"http://home.example:8443/", "#: egress 192.168.1.5/32:8443", "#: egress 192.168.1.5/32:8443"},
			} {
				s.rules("work.10.137.0.11", list...)
				s.update()
				said := s.on(1, "explain", "work", tt.request)
				_, rest, _ := strings.Cut(said, "(the line `")
				line, _, _ := strings.Cut(rest, "` in the rule file opens it)")
				if want := map[string]string{"names": tt.names, "patterns": tt.patterns}[name]; line != want {
					t.Errorf("%s in %s: %q is offered, want %q:\n%s", tt.request, name, line, want, said)
				}
				s.rules("work.10.137.0.11", append(list[:len(list):len(list)], line)...)
				s.update()
				s.on(0, "explain", "work", tt.request)
				if strings.HasPrefix(tt.request, "https:") {
					s.must(s.page("work", tt.request))
				}
				s.on(1, "explain", "other", tt.request)
			}
		}
		s.stop()
	})
}

// allow with a port, or with a URL that has one, means that port, for good and for a time; deny takes it back.
func TestAllowAPort(t *testing.T) {
	onBoth(t, func(s *site) {
		lists := map[string]string{"work": "#: format domains\nbank.example\n", "other": "^bank\\.example$\n"}
		s.rules("work.10.137.0.11", "#: format domains", "bank.example")
		s.rules("other.10.137.0.12", `^bank\.example$`)
		s.start()
		s.attach("work", "10.137.0.11")
		s.attach("other", "10.137.0.12")
		s.opens("work", "http://bank.example/")
		s.opens("other", "http://bank.example/")
		for vm, was := range lists {
			path, _ := filepath.Glob(filepath.Join(s.rulesDir(), vm+".*"))
			said := s.on(0, "allow", vm, "https://shop.example:8443/cart", "git.example:22")
			for _, want := range []string{"CONNECT shop.example:8443 by " + vm + ": passes", "CONNECT git.example:22 by " + vm + ": passes",
				"port 8443 is for all hosts that " + vm + " may reach"} {
				if !strings.Contains(said, want) {
					t.Errorf("allow does not say %q:\n%s", want, said)
				}
			}
			s.must(s.page(vm, "https://shop.example:8443/"))
			s.greeted(vm, "git.example:22")
			s.on(0, "deny", vm, "shop.example:8443", "git.example:22")
			s.refuses(vm, "https://shop.example:8443/")
			content, err := os.ReadFile(path[0])
			s.must(err)
			if string(content) != was {
				t.Errorf("%s after allow and deny: %q", path[0], content)
			}

			// For a time.
			s.on(0, "allow", vm, "http://shop.example:8443/", "--for=1h")
			s.on(0, "explain", vm, "shop.example:8443")
			s.must(s.page(vm, "https://shop.example:8443/"))
			before := s.tunnel(vm, "shop.example:8443")
			s.on(0, "allow", vm, "shop.example", "--for=1h")
			s.on(0, "deny", vm, "shop.example:8443")
			s.cut(before)
			s.must(s.page(vm, "https://shop.example/"))
			s.on(0, "allow", vm, "shop.example:8443", "--for=1h")
			s.on(0, "deny", vm, "shop.example")
			s.refuses(vm, "https://shop.example:8443/", "https://shop.example/")
			s.ctl("allow", vm, "ws://shop.example/", "--for=1s") // over, maybe, when it looks whether the request passes
			s.untilForbidden("the time is over", vm, "shop.example:80")
		}
		for name, vm := range s.show() {
			if vm.State != control.Running || vm.Error != "" {
				t.Errorf("%s: %+v", name, vm)
			}
		}
		s.stop()
	})
}
