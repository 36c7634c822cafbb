package main

import (
	"fmt"
	"testing"

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
		s.start()
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
