package main

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"vifproxy/internal/lab"
)

// An AppVM that is shown another gateway than it has reaches its proxy at either, and no other AppVM does.
func TestMaskedGateway(t *testing.T) {
	onBothWays(t, func(s *site, flags ...string) {
		d, option := s.qubesDB()
		const shown, other = "192.168.7.1", "192.168.7.2"
		at := func(vm, gateway string) (status int, err error) {
			ctx, cancel := context.WithTimeout(s.Context(), 2*time.Second)
			defer cancel()
			r := s.Fetch(ctx, vm, gateway+":8100", "http://bank.example/")
			return r.Status, r.Err
		}
		served := func(vm, gateway string, want bool) {
			s.Helper()
			s.until(fmt.Sprintf("%s is served at %s: %t", vm, gateway, want), func() error {
				if status, err := at(vm, gateway); (status == 200) != want {
					return fmt.Errorf("status %d, %v", status, err)
				}
				return nil
			})
		}
		d.Write("/mapped-ip/10.137.0.11/visible-ip", "192.168.7.5")
		d.Write("/mapped-ip/10.137.0.11/visible-gateway", shown)
		d.Write("/mapped-ip/10.137.0.12/visible-gateway", "127.0.0.1") // of whom it is nonsense
		s.rules("banking.10.137.0.11", bank)
		s.rules("work.10.137.0.12", bank)
		s.attach("banking", "10.137.0.11")
		s.attach("work", "10.137.0.12")
		s.start(append(flags, option)...)
		s.opens("banking", "http://bank.example/")
		served("banking", shown, true)
		s.opens("work", "http://bank.example/")
		served("work", shown, false)
		served("banking", other, false)
		if gateway := s.show()["banking"].Gateway; gateway != shown {
			s.Errorf("show: %s", gateway)
		}

		// It changes at run time, and what is not shown any more is closed.
		d.Write("/mapped-ip/10.137.0.11/visible-gateway", other)
		served("banking", other, true)
		served("banking", shown, false)
		d.Remove("/mapped-ip/")
		served("banking", other, false)
		s.opens("banking", "http://bank.example/")
		s.stop()
	})
}

// onBothWays runs a test with either firewall, and with NAT where the other way is the switchboard.
func onBothWays(t *testing.T, f func(s *site, flags ...string)) {
	t.Parallel()
	var all sync.WaitGroup
	for name, way := range map[string]struct {
		ruleset lab.Ruleset
		flags   []string
	}{"r42": {lab.R42, nil}, "r42 by nat": {lab.R42, []string{"--switchboard=off"}}, "r41": {lab.R41, nil}} {
		all.Go(func() {
			t.Run(name, func(t *testing.T) { f(newSite(t, way.ruleset), way.flags...) })
		})
	}
	all.Wait()
}
