package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/lab"
)

// resolvesTo is names that somebody else's name server may give any address, and all of them are listed.
var resolvesTo = map[string]string{
	"loopback.example": "127.0.0.1",
	"gateway.example":  lab.Gateway.String(),
	"appvm.example":    "10.137.0.12", // other, below
	"lan.example":      "10.9.8.7",
	"home.example":     "192.168.1.5",
	"metadata.example": "169.254.169.254",
	"site.example":     "172.16.5.5",
}

// inside runs web servers where a proxy must not get: in the firewall VM and in an AppVM.
func (s *site) inside() {
	s.Helper()
	serve := func(l net.Listener) {
		server := &http.Server{ReadHeaderTimeout: patience,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello from inside") })}
		go server.Serve(l) //nolint:errcheck // until the test ends
		s.Cleanup(func() { server.Close() })
	}
	listen := func(addr string) error {
		l, err := net.Listen("tcp4", addr)
		if err == nil {
			serve(l)
		}
		return err
	}
	s.must(s.Do(func() error {
		if err := listen("127.0.0.1:80"); err != nil {
			return err
		}
		return listen(lab.Gateway.String() + ":80")
	}))
	s.must(s.DoVM("other", func() error { return listen(":80") }))
}

// fenced checks that pages do not open, that the AppVM learns so at once, and that `denied` says why. It asks for all pages at the same
// time: tinyproxy itself waits a second before it tells of a failure (get_request_entity in its src/reqs.c).
func (s *site) fenced(vm string, pages ...string) {
	s.Helper()
	began := time.Now()
	var running sync.WaitGroup
	for _, page := range pages {
		running.Go(func() {
			if r := s.Get(vm, page); r.Status != 500 {
				s.Errorf("%s gets %d (%v) %.100q for %s, want an error of the proxy", vm, r.Status, r.Err, r.Body, page)
			}
		})
	}
	running.Wait()
	for _, page := range pages {
		u, err := url.Parse(page)
		s.must(err)
		s.until("the fence is said to refuse "+page, func() error {
			denied := s.denied(vm)[vm].Hosts
			if !slices.ContainsFunc(denied, func(d events.DeniedHost) bool {
				return d.Host == u.Hostname() && d.What == events.FenceRefused && d.Last.After(began)
			}) {
				return fmt.Errorf("%+v", denied)
			}
			return nil
		})
	}
}

// connects checks that an AppVM's proxy connects to a port where no web server listens.
func (s *site) connects(vm, host string, port uint16) {
	s.Helper()
	s.Get(vm, fmt.Sprintf("http://%s:%d/", host, port))
	if n, err := s.Reached(host, port); n == 0 || err != nil {
		s.Errorf("port %d of %s was never reached (%v)", port, host, err)
	}
}

// pages are those of all names in resolvesTo.
func pages(schemes ...string) (all []string) {
	for name := range resolvesTo {
		for _, scheme := range schemes {
			all = append(all, scheme+"://"+name+"/")
		}
	}
	return all
}

func TestListedNamesLeadNowhereElse(t *testing.T) {
	onBoth(t, func(s *site) {
		patterns := []string{`^bank\.example$`}
		for name, addr := range resolvesTo {
			s.Host(name, netip.MustParseAddr(addr))
			patterns = append(patterns, "^"+strings.ReplaceAll(name, ".", `\.`)+"$")
		}
		s.rules("work.10.137.0.11", patterns...)
		s.rules("other.10.137.0.12", patterns...)
		s.start()
		s.attach("work", "10.137.0.11")
		s.attach("other", "10.137.0.12")
		s.inside()
		s.opens("work", "http://bank.example/", "https://bank.example/")
		s.opens("other", "http://bank.example/")
		for _, vm := range []string{"work", "other"} {
			if n := s.show()[vm].EgressRefused; n != 0 {
				t.Errorf("%s: %d counted before anything was refused", vm, n)
			}
		}
		s.fenced("work", append(pages("http", "https"), "http://bank.example:22/")...)
		for name, addr := range resolvesTo {
			if name == "loopback.example" { // the lab itself uses its own
				continue
			}
			if n, err := s.Reached(addr, 0); n != 0 || err != nil {
				t.Errorf("%s was reached %d times (%v)", name, n, err)
			}
		}
		if n, err := s.Reached("bank.example", 22); n != 0 || err != nil {
			t.Errorf("port 22 was reached %d times (%v)", n, err)
		}
		if n := s.show()["other"].EgressRefused; n != 0 {
			t.Errorf("%d counted for the wrong AppVM", n)
		}
		explained := func(vm, request string, status int, want string) {
			t.Helper()
			if said := s.on(status, "explain", vm, request); !strings.Contains(said, want) {
				t.Errorf("%s to %s is explained by\n%s, want %s", vm, request, said, want)
			}
		}
		explained("work", "http://lan.example/", 1, "10.9.8.7 is refused: it is in 10.0.0.0/8 "+
			"(the line `#: egress 10.9.8.7/32:80` in the rule file opens it)")
		explained("work", "http://bank.example:22/", 1, "is refused: port 22 is not open")
		explained("work", "http://bank.example/", 0, "is public, and port 80 is open everywhere")

		// Opened for one AppVM.
		pid := s.show()["work"].PID
		openings := []string{"#: egress 127.0.0.1", "#: egress " + lab.Gateway.String() + "/32:80",
			"#: egress 10.137.0.12/32", "#: egress 10.9.0.0/16:443", "#: egress 192.168.1.0/24", "#: egress 10.9.8.7:22"}
		s.rules("work.10.137.0.11", append(openings, patterns...)...)
		s.opens("work", "http://loopback.example/", "http://gateway.example/", "http://appvm.example/",
			"https://lan.example/", "http://home.example/", "https://home.example/")
		s.fenced("work", "http://lan.example/", "http://site.example/")
		s.connects("work", "lan.example", 22)
		explained("work", "lan.example", 0,
			"10.9.8.7 is opened by "+filepath.Join(s.rulesDir(), "work.10.137.0.11")+":4: #: egress 10.9.0.0/16:443")
		explained("other", "lan.example", 1, "10.9.8.7 is refused: it is in 10.0.0.0/8")
		s.fenced("other", pages("http")...)
		if vm := s.show()["work"]; vm.PID == pid || vm.State != control.Running || vm.Error != "" {
			t.Errorf("%+v, before pid %d", vm, pid)
		}

		// What is revoked ends, tunnels included.
		tunnel := s.tunnel("work", "lan.example:443")
		s.rules("work.10.137.0.11", patterns...)
		s.cut(tunnel)
		s.fenced("work", pages("http")...)
		s.stop()
	})
}

// A proxy that an AppVM has taken over is whatever runs under its uid. It is where the name server is of no
// importance, and the filter neither.
func TestTakenOverProxy(t *testing.T) {
	onBoth(t, func(s *site) {
		const told, untold = "198.51.100.50", "198.51.100.9" // what the name servers say, and another public address
		s.Host("bank.example", netip.MustParseAddr(told))
		s.rules("work.10.137.0.11", bank)
		s.rules("other.10.137.0.12", bank, "#: port 22")
		s.start()
		s.attach("work", "10.137.0.11")
		s.attach("other", "10.137.0.12")
		s.inside()
		s.opens("work", "http://bank.example/")
		s.opens("other", "http://bank.example/")
		theirs := fmt.Sprintf("%s:%d", lab.Gateway, s.show()["other"].Port)
		connects := func(uid, to string) bool {
			host, port, err := net.SplitHostPort(to)
			s.must(err)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := s.Command(ctx, "setpriv", "--reuid="+uid, "--clear-groups", "bash", "-c",
				fmt.Sprintf("exec 3<>/dev/tcp/%s/%s", host, port))
			out, err := cmd.CombinedOutput()
			if ctx.Err() != nil {
				t.Errorf("uid %s to %s is neither let through nor refused: %s", uid, to, out)
			}
			return err == nil
		}
		for to, want := range map[string]bool{
			"127.0.0.1:80": false, lab.Gateway.String() + ":80": false, theirs: false, "10.137.0.12:80": false,
			"10.9.8.7:80": false, told + ":22": false, told + ":53": false, told + ":80": true, told + ":443": true,
			untold + ":80": false, untold + ":443": false,
		} {
			if got := connects("1888026635", to); got != want { // 0x7089000b
				t.Errorf("a proxy's uid to %s: connects %v, want %v", to, got, want)
			}
			if !strings.HasSuffix(to, ":53") && to != theirs && !connects("65534", to) {
				t.Errorf("another uid does not get to %s: then it is not the fence that is tested", to)
			}
		}
		// A port of a list is open to the proxy of that list, at public addresses.
		for to, want := range map[string]bool{told + ":22": true, untold + ":22": false, "10.9.8.7:22": false, lab.Gateway.String() + ":22": false} {
			if got := connects("1888026636", to); got != want {
				t.Errorf("the uid of a proxy with port 22 to %s: connects %v, want %v", to, got, want)
			}
		}
		s.stop()
	})
}

func TestEgressForAll(t *testing.T) {
	onBoth(t, func(s *site) {
		s.Host("lan.example", netip.MustParseAddr("10.9.8.7"))
		s.rules("work.10.137.0.11", `^lan\.example$`)
		s.rules("play.10.137.0.12", `^lan\.example$`)
		s.start("--egress-allow=10.9.0.0/16,10.9.8.0/24:22")
		s.attach("work", "10.137.0.11")
		s.attach("play", "10.137.0.12")
		s.opens("work", "http://lan.example/", "https://lan.example/")
		s.opens("play", "http://lan.example/")
		s.connects("play", "lan.example", 22)
		s.stop()
	})
}

// The fence stands as long as proxies do, whatever others do to it.
func TestFenceIsMended(t *testing.T) {
	onBoth(t, func(s *site) {
		s.Host("lan.example", netip.MustParseAddr("10.9.8.7"))
		s.rules("work.10.137.0.11", bank, `^lan\.example$`)
		s.attach("work", "10.137.0.11")
		s.start()
		s.opens("work", "http://bank.example/")
		s.fenced("work", "http://lan.example/")
		refused := func() uint64 { // as a proxy that does not care what it is told
			s.Command(t.Context(), "setpriv", "--reuid=1888026635", "--clear-groups", "bash", "-c", "exec 3<>/dev/tcp/10.9.8.7/80").Run() //nolint:errcheck // it is refused
			return s.show()["work"].EgressRefused
		}
		counted := refused()
		s.inFirewall("nft", "delete", "table", "inet", "vifproxy")
		s.until("the fence is back", func() error {
			if r := s.Get("work", "http://lan.example/"); r.Status == 200 {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
		s.until("the fence refuses, and counts", func() error {
			if n := refused(); n <= counted || counted == 0 {
				return fmt.Errorf("%d counted, and %d before the rules were loaded again", n, counted)
			}
			return nil
		})
		s.stop()
	})
}
