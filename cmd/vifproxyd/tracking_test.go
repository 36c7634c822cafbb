package main

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An AppVM that goes with connections open, as by a power failure: when it comes back, it may happen to connect from
// the same port, and must not be sent where the old connection went.
func TestConnectionsAreForgotten(t *testing.T) {
	onBoth(t, func(s *site) {
		// What is over is remembered too, for two minutes (nf_conntrack_tcp_timeout_time_wait), and hinders no new connection.
		const over = 120 // seconds
		tracked := func() (all []*netlink.ConntrackFlow) {
			s.must(s.Do(func() error {
				flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
				for _, f := range flows {
					if f.Forward.DstPort == 8100 && f.TimeOut > over {
						all = append(all, f)
					}
				}
				return err
			}))
			return all
		}
		s.rules("work.10.137.0.11", bank)
		s.start("--switchboard=off") // what it hands over is not tracked
		s.attach("work", "10.137.0.11")
		s.opens("work", "http://bank.example/")
		s.tunnel("work", "bank.example:443")
		if len(tracked()) == 0 {
			t.Fatal("the kernel tracks no connection: this shows nothing")
		}
		s.must(s.Vanish(s.vifs["work"]))
		s.until("no connection is remembered", func() error {
			if left := tracked(); len(left) > 0 {
				return fmt.Errorf("%v", left)
			}
			return nil
		})
		s.attach("work", "10.137.0.11")
		s.opens("work", "http://bank.example/")
		s.stop()
	})
}

// TestTunnelsOutliveQubesRules: qubes-firewall applies new rules, and with "drop" as the last of them deletes the tracked
// connections to the proxy, by conntrack -D. The server is the next to send, then the client; nobody's tunnel notices.
func TestTunnelsOutliveQubesRules(t *testing.T) {
	onBoth(t, func(s *site) {
		var l net.Listener
		s.must(s.DoInternet(func() (err error) {
			l, err = net.Listen("tcp4", ":563")
			return err
		}))
		defer l.Close()
		s.template("ConnectPort 443", "ConnectPort 443\nConnectPort 563")
		s.rules("work.10.137.0.11", bank)
		s.start()
		s.attach("work", "10.137.0.11")
		s.opens("work", "http://bank.example/")
		handed := s.way().Used
		client := s.tunnel("work", "bank.example:563")
		server, err := l.Accept()
		s.must(err)
		defer server.Close()
		carries := func(what string, from, to net.Conn) {
			s.Helper()
			word := []byte("word")
			_, err := from.Write(word)
			if err == nil {
				_, err = io.ReadFull(to, word)
			}
			if err != nil {
				s.Errorf("%s: %v", what, err)
			}
		}
		s.must(server.SetDeadline(time.Now().Add(patience)))
		carries("server first", server, client)
		carries("client", client, server)
		for _, edit := range []bool{false, true} {
			if edit { // another process serves who comes now, the tunnel's finishes its connections
				before := s.show()["work"].PID
				s.rules("work.10.137.0.11", bank, shop)
				s.until("the new rules are in force", func() error {
					if now := s.show()["work"].PID; now == before {
						return fmt.Errorf("process %d serves", now)
					}
					return nil
				})
			}
			s.must(s.Do(func() error {
				n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, fromWork{})
				if err == nil && (n == 0) != handed {
					err = fmt.Errorf("%d connections were tracked", n)
				}
				return err
			}))
			carries("server next", server, client)
			carries("then the client", client, server)
		}
		s.opens("work", "http://bank.example/")
		s.stop()
	})
}

// fromWork are connections that the AppVM has made, or what is tracked of them since the proxy was the next to send.
type fromWork struct{}

func (fromWork) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	const work = "10.137.0.11"
	return flow.Forward.SrcIP.String() == work || flow.Forward.DstIP.String() == work
}
