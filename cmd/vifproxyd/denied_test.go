package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"vifproxy/internal/events"
	"vifproxy/internal/lab"
)

// deniedOne waits until `denied` has an entry for a host of an AppVM, and returns the newest.
func (s *site) deniedOne(vm, host string) (found events.DeniedHost) {
	s.Helper()
	s.until("denied has "+host, func() error {
		for _, d := range s.denied(vm)[vm].Hosts {
			if d.Host == host {
				found = d
				return nil
			}
		}
		return errors.New("it has not")
	})
	return found
}

// Every request that is not served is in `denied`, in `watch` and in the log, with port and reason, though the template
// wants nothing logged.
func TestEveryFailureIsDeniedWithAReason(t *testing.T) {
	onBoth(t, func(s *site) {
		s.Host("lan.example", netip.MustParseAddr("10.9.8.7"))
		s.rules("social.10.137.0.11", "#: format domains", "bank.example", "lan.example", "nowhere.invalid")
		s.template("LogLevel Notice", "LogLevel Critical")
		s.start()
		watched := s.watch("social")
		s.untilTold(watched, 0, "itself", named(events.Watching))
		s.attach("social", "10.137.0.11")
		s.opens("social", "http://bank.example/", "https://bank.example/")
		if hosts := s.denied("social")["social"].Hosts; len(hosts) != 0 {
			t.Errorf("all is well, and denied has %+v", hosts)
		}
		for _, c := range []struct {
			request, host     string
			port              uint16
			reason            events.Reason
			what, says, event string
		}{
			{"GET http://shop.example/", "shop.example", 80, "list", "", "no line of its list", "refused"},
			{"CONNECT cdn.example:443", "cdn.example", 443, "list", "", "no line of its list", "refused"},
			{"CONNECT bank.example:8443", "bank.example", 8443, "port", "", "ConnectPort", "refused"},
			{"CONNECT bank.example:80", "bank.example", 80, "port", "", "ConnectPort", "refused"}, // ws://
			{"GET http://nowhere.invalid/", "nowhere.invalid", 80, "name", "no-such-name", "no such name", "unreached"},
			{"CONNECT lan.example:443", "lan.example", 443, "connect", "fence", "10.9.8.7", "unreached"},
			{"GET http://bank.example:22/", "bank.example", 22, "connect", "fence", "port 22 is not open", "unreached"},
		} {
			if _, err := s.ask("social", c.request+" HTTP/1.0\r\n\r\n"); err != nil {
				t.Errorf("%s: %v", c.request, err)
			}
			s.until("denied has "+c.request, func() error {
				for _, d := range s.denied("social")["social"].Hosts {
					if d.Host == c.host && d.Port == c.port && d.Reason == c.reason && d.What == c.what &&
						strings.Contains(d.Why, c.says) && d.Count == 1 {
						return nil
					}
				}
				return fmt.Errorf("%+v", s.denied("social"))
			})
			s.untilTold(watched, 0, c.request, func(e events.Event) bool {
				return e.Event == c.event && e.Host == c.host && e.Port == c.port && e.Reason == c.reason && e.What == c.what
			})
		}
		out, _, _ := s.ctl("denied", "social")
		for _, line := range []string{"8443  port: ConnectPort does not name it\n", "  443   list\n", "connect: the fence lets no proxy"} {
			if !strings.Contains(out, line) {
				t.Errorf("no %q in\n%s", line, out)
			}
		}
		if log, errs, status := s.ctl("log", "social"); strings.Contains(log, "bank.example") {
			t.Errorf("the template wants nothing logged, and the log has, %d, %s,\n%s", status, errs, log)
		}
		s.stop()
	})
}

// A host that does not answer, and one that is not asked since another program's rules drop it, are told from one another, while
// the page hangs.
func TestAHangingPageSaysWhy(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("social.10.137.0.11", "#: format domains", "bank.example", "shop.example")
		s.start()
		s.attach("social", "10.137.0.11")
		s.opens("social", "http://bank.example/")
		s.inFirewall("nft", "add table ip other; add chain ip other output { type filter hook output priority 10; }; "+
			"add rule ip other output tcp dport 80 drop")
		bank := s.hang("social", "bank.example:80")
		defer bank.Close()
		if d := s.deniedOne("social", "bank.example"); d.Reason != "connect" || d.What != "another-table" ||
			!strings.Contains(d.Why, ":80 does not leave this VM") {
			t.Errorf("%+v", d)
		}
		s.inFirewall("nft", "delete table ip other; add table ip other; "+
			"add chain ip other prerouting { type filter hook prerouting priority -300; }; "+
			"add rule ip other prerouting tcp sport 80 drop")
		shop := s.hang("social", "shop.example:80")
		defer shop.Close()
		if d := s.deniedOne("social", "shop.example"); d.Reason != "connect" || d.What != "no-answer" ||
			!strings.Contains(d.Why, "no answer from ") || d.Count != 1 {
			t.Errorf("%+v", d)
		}
		s.inFirewall("nft", "delete table ip other")
		s.stop()
	})
}

// hang asks for a page that does not come.
func (s *site) hang(vm, host string) net.Conn {
	s.Helper()
	conn, err := s.Dial(s.Context(), vm, "tcp", fmt.Sprintf("%s:%d", lab.Gateway, lab.ProxyPort))
	s.must(err)
	s.must(send(conn, "GET http://"+host+"/ HTTP/1.0\r\n\r\n"))
	return conn
}

// An AppVM that the template keeps out is in `denied` too, without a host, and so is a connection that waits because of MaxClients.
func TestTemplateAndMaxClientsAreReasons(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("social.10.137.0.11", "#: format domains", "bank.example")
		s.template("Allow {vm_ip}", "Allow 10.255.255.1")
		s.start()
		s.attach("social", "10.137.0.11")
		s.until("it is turned away", func() error {
			_, err := s.ask("social", "GET http://bank.example/ HTTP/1.0\r\n\r\n")
			d := s.denied("social")["social"].Hosts
			if len(d) != 1 || d[0].Host != "" || d[0].Reason != "template" || d[0].What != "Allow" {
				return fmt.Errorf("%+v, %v", d, err)
			}
			return nil
		})
		s.stop()
	})
}

// A host that a page misses comes before those that its browser asks for by itself, though later and more often, in `denied` and for
// scripts. The mark opens nothing: such a host is refused and allowed like any other.
func TestWhatThePageMissesIsFirst(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("social.10.137.0.11", "#: format domains", "bank.example")
		s.start()
		watched := s.watch("social")
		s.untilTold(watched, 0, "itself", named(events.Watching))
		s.attach("social", "10.137.0.11")
		s.opens("social", "http://bank.example/")
		const portal = "detectportal.firefox.com"
		s.Host(portal, netip.MustParseAddr("203.0.113.80"))
		s.refuses("social", "http://cdn.example/", "http://aus5.mozilla.org/", "http://detectportal.firefox.com.evil.example/")
		for range 30 {
			s.refuses("social", "http://"+portal+"/")
		}
		s.untilTold(watched, 0, "a marked host", func(e events.Event) bool { return e.Host == portal && e.Browser != "" })
		s.refuses("social", "http://shop.example/")
		s.untilTold(watched, 0, "what the page misses", func(e events.Event) bool { return e.Host == "shop.example" })
		s.until("denied has all in order", func() error {
			var hosts []string
			for _, d := range s.denied("social")["social"].Hosts {
				if d.Browser != "" {
					d.Host += "*"
				}
				hosts = append(hosts, d.Host)
			}
			got := strings.Join(hosts, " ")
			if got != "shop.example detectportal.firefox.com.evil.example cdn.example "+portal+"* aus5.mozilla.org*" {
				return errors.New(got)
			}
			return nil
		})
		if out, _, _ := s.ctl("denied", "social"); !strings.HasSuffix(out, "list; by itself: Firefox looks for updates of itself and of media plug-ins\n") {
			t.Error(out)
		}
		if _, errs, status := s.ctl("allow", "social", portal); status != 0 {
			t.Errorf("allow: %d %s", status, errs)
		}
		s.opens("social", "http://"+portal+"/")
		s.stop()
	})
}
