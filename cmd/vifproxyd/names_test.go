package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"vifproxy/internal/lab"
)

// corporate is a proxy in the internet that says 200 to everything and keeps what it was asked for.
type corporate struct {
	mu    sync.Mutex
	asked []string
}

func (s *site) corporate(port int) *corporate {
	s.Helper()
	var l net.Listener
	s.must(s.DoInternet(func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port))
		return err
	}))
	s.Cleanup(func() { l.Close() })
	c := &corporate{}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				first, _ := r.ReadString('\n')
				for line := first; strings.TrimSpace(line) != ""; {
					line, _ = r.ReadString('\n')
				}
				c.mu.Lock()
				c.asked = append(c.asked, strings.TrimSpace(first))
				c.mu.Unlock()
				fmt.Fprint(conn, "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nyes")
			}()
		}
	}()
	return c
}

func (c *corporate) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.asked)
}

// An Upstream whose name server answers with one of several addresses, another each time, is reached at each.
func TestUpstreamsThatRotateAreReached(t *testing.T) {
	onBoth(t, func(s *site) {
		s.corporate(3128)
		var pool []netip.Addr
		for i := range 4 {
			pool = append(pool, netip.AddrFrom4([4]byte{198, 51, 100, byte(80 + i)}))
		}
		rotate := func(i int) { s.Host("proxy.corp.example", pool[i%len(pool)]) }
		rotate(0)
		s.attach("work", "10.137.0.11")
		s.templateWith("Upstream http proxy.corp.example:3128")
		s.rules("work.10.137.0.11", bank)
		s.start()
		for i := range pool {
			rotate(i)
			s.until("the fence has the address", func() error {
				if said, _, status := s.ctl("explain", "work", "http://bank.example/"); status != 0 || !strings.Contains(said, pool[i].String()+" is open") {
					return errors.New(said)
				}
				return nil
			})
		}
		for i := range 12 {
			rotate(i)
			if got := s.request("work", "GET", "http://bank.example/"); !strings.HasPrefix(got, "200") {
				t.Errorf("at %s: %s", pool[i%len(pool)], got)
			}
		}
		// What whoever answers for the name makes of it.
		s.Host("proxy.corp.example", netip.MustParseAddr("127.0.0.1"))
		s.until("explain says so", func() error {
			if said, _, status := s.ctl("explain", "work", "http://bank.example/"); status != 1 || !strings.Contains(said, "127.0.0.1 is refused") {
				return fmt.Errorf("exit status %d, %s", status, said)
			}
			return nil
		})
		s.stop()
	})
}

// request sends a request as no browser would and returns the status line of the answer.
func (s *site) request(vm, method, target string, headers ...string) string {
	s.Helper()
	conn, err := s.Dial(s.Context(), vm, "tcp", fmt.Sprintf("%s:%d", lab.Gateway, lab.ProxyPort))
	s.must(err)
	defer conn.Close()
	fmt.Fprintf(conn, "%s %s HTTP/1.0\r\n%s\r\n", method, target, strings.Join(append(headers, ""), "\r\n"))
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err.Error()
	}
	answer.Body.Close()
	return answer.Status
}

// templateWith writes the built-in template with more lines at its end.
func (s *site) templateWith(more ...string) {
	s.Helper()
	text, err := os.ReadFile("../../rules/builtin.conf")
	s.must(err)
	s.rules("config", append([]string{string(text)}, more...)...)
}

// With an Upstream, what is no host name might be read as another host there. Nothing of the kind gets so far,
// however the list is written.
func TestOnlyHostNamesReachAnUpstream(t *testing.T) {
	onBoth(t, func(s *site) {
		c := s.corporate(3128)
		lists := map[string]struct {
			template string
			lines    []string
		}{
			"basic":    {"", []string{`\.bank\.example$`, `^.*\.shop\.example$`, `^[^/]*\.more\.example$`}},
			"extended": {"FilterExtended Yes", []string{`(^|\.)bank\.example$`, `shop\.example$|more\.example$`}},
			"fnmatch":  {"FilterType fnmatch", []string{`*.bank.example`, `*shop.example`, `[!%]*.more.example`}},
			"names":    {"", []string{"#: format domains", "*.bank.example", "*.shop.example", "*.more.example"}},
		}
		s.attach("work", "10.137.0.11")
		s.templateWith("Upstream http 198.51.100.77:3128")
		s.rules("work.10.137.0.11", bank)
		s.start()
		passes := func(host string) {
			t.Helper()
			s.until(host+" passes", func() error {
				if got := s.request("work", "GET", "http://"+host+"/"); !strings.HasPrefix(got, "200") {
					return errors.New(got)
				}
				return nil
			})
		}
		passes("bank.example")
		s.request("work", "GET", "http://other.example:8080/secret")
		s.until("denied names the host", func() error {
			said, _, _ := s.ctl("denied", "--json", "work")
			if !strings.Contains(said, `"other.example"`) || !strings.Contains(said, "8080") || strings.Contains(said, "secret") {
				return errors.New(said)
			}
			return nil
		})
		for what, list := range lists {
			s.templateWith("Upstream http 198.51.100.77:3128", list.template)
			s.rules("work.10.137.0.11", list.lines...)
			s.update()
			before := len(c.all())
			for _, domain := range []string{"bank", "shop", "more"} {
				for _, odd := range "\t#%?@\\;,&=\x01\x7f:" {
					for _, host := range []string{"x%c.", "%c.", "x%cy."} {
						host = strings.ReplaceAll(host, "%c", string(odd)) + domain + ".example"
						if host[0] == '\t' {
							continue // sscanf passes over it (process_request in src/reqs.c of 1.11)
						}
						if odd == '@' {
							host = "x@" + host // tinyproxy takes one user away
						}
						for method, target := range map[string]string{"GET": "http://" + host + "/", "CONNECT": host + ":443"} {
							if got := s.request("work", method, target); strings.HasPrefix(got, "200") {
								t.Errorf("%s: %s %q: %s", what, method, target, got)
							}
						}
					}
				}
			}
			// There is no URL in this request.
			if got := s.request("work", "OPTIONS", "*", "Host: www.bank.example"); !strings.HasPrefix(got, "403") {
				t.Errorf("%s: a request without a URL: %s", what, got)
			}
			if asked := c.all()[before:]; len(asked) > 0 {
				t.Errorf("%s: the upstream was asked for %q", what, asked)
			}
			for _, domain := range []string{"bank", "shop", "more"} {
				passes("www." + domain + ".example")
				passes("A-1.b_c." + domain + ".example")
			}
			for method, target := range map[string]string{"GET": "/a?b", "CONNECT": "www.bank.example:443"} {
				if got := s.request("work", method, target, "Host: www.bank.example"); !strings.HasPrefix(got, "200") {
					t.Errorf("%s: %s %s: %s", what, method, target, got)
				}
			}
		}

		// An address of IPv6 loses its brackets on the way to an Upstream, and is another one then.
		s.templateWith("Upstream http 198.51.100.77:3128")
		s.rules("work.10.137.0.11", bank, `^2001:db8::1$`)
		if _, errs, status := s.ctl("update"); status != 1 || !strings.Contains(errs,
			filepath.Join(s.rulesDir(), "work.10.137.0.11")+":2: tinyproxy passes 2001:db8::1 on to the Upstream without brackets") {
			t.Errorf("update: exit status %d, %s", status, errs)
		}
		s.templateWith("Upstream http 198.51.100.77:3128", `Upstream none "2001:db8::1"`)
		s.update()

		// With FilterURLs there is nothing that says where a host begins and ends.
		s.templateWith("Upstream http 198.51.100.77:3128", "FilterURLs Yes")
		if _, errs, status := s.ctl("update"); status != 1 || !strings.Contains(errs, "with an Upstream, FilterURLs lets anything pass") {
			t.Errorf("update: exit status %d, %s", status, errs)
		}
		s.stop()
	})
}

// A long list goes on to be served at work, when it takes several times the memory that it took to be read.
func TestLongListsAreServed(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.asShipped() // the race detector makes of half a second with such a list ten
	s.pair()
	before, play := s.show()["work"], s.show()["play"]
	lines := []string{"#: format domains", "bank.example"}
	for i := range 8000 {
		lines = append(lines, fmt.Sprintf("*.n%d.list.example", i))
	}
	s.rules("work.10.137.0.11", lines...)
	s.until("the list serves", func() error {
		if now := s.show()["work"]; now.PID == before.PID || now.Error != "" {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	for i := range 100 {
		host := fmt.Sprintf("%s.n%d.list.example", strings.Repeat(string(rune('a'+i%26)), 1+i%40), i*70)
		if r := s.Get("work", "http://"+host+"/"); r.Status != 200 {
			t.Fatalf("after %d requests: %s: %+v", i, host, r)
		}
	}
	s.refuses("work", "http://a.n1.evil.example/")
	s.undisturbed(play, "http://shop.example/")
	s.stop()
}

// A mistake in a line with a password is told with its place, and without the password, wherever it is told.
func TestPasswordsAreNotTold(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.pair()
	for _, line := range []string{
		"Upstream http me:s3cret@proxy.example", "Upstream http me:s3cret.proxy.example:3128", "Upstraem http me:s3cret@proxy.example:3128",
		"Upstream http me:s3cret @proxy.example:x", "Upstream http me:{s3cret}@proxy.example:3128", "BasicAuht me s3cret",
		"BasicAuth s3cret",
	} {
		s.templateWith(line)
		_, said, status := s.ctl("update")
		if status != 1 || !strings.Contains(said, "config:") {
			t.Errorf("%q: update: exit status %d, %s", line, status, said)
		}
		for _, args := range [][]string{{"show"}, {"show", "--json"}, {"check", "--rules-dir=" + s.rulesDir()},
			{"check", "--json", "--rules-dir=" + s.rulesDir()}, {"doctor", "--rules-dir=" + s.rulesDir()},
			{"explain", "work", "http://bank.example/"}} {
			out, errs, _ := s.ctl(args...)
			said += out + errs
		}
		if strings.Contains(said+s.daemon.log.String(), "s3cret") {
			t.Errorf("%q is told:\n%s%s", line, said, s.daemon.log.String())
		}
	}
	s.stop()
}
