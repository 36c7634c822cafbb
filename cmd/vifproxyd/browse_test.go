package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/lab"
)

// opens waits until an AppVM's page opens.
func (s *site) opens(vm string, pages ...string) {
	s.Helper()
	for _, page := range pages {
		s.until(fmt.Sprintf("%s opens %s", vm, page), func() error { return s.page(vm, page) })
	}
}

// page fetches a page now and checks that it is the origin's.
func (s *site) page(vm, page string) error {
	r := s.Get(vm, page)
	if r.Err != nil {
		return r.Err
	}
	if r.Status != 200 || !strings.Contains(r.Body, "hello from") {
		return fmt.Errorf("status %d: %.200s", r.Status, r.Body)
	}
	return nil
}

// refuses checks that the AppVM's proxy is there and says no.
func (s *site) refuses(vm string, pages ...string) {
	s.Helper()
	for _, page := range pages {
		if r := s.Get(vm, page); r.Status != 403 {
			s.Errorf("%s gets %d (%v) for %s, want 403", vm, r.Status, r.Err, page)
		}
	}
}

// cutOff checks that an AppVM reaches nothing at its proxy port.
func (s *site) cutOff(vm string) error {
	ctx, cancel := context.WithTimeout(s.Context(), 2*time.Second)
	defer cancel()
	conn, err := s.Dial(ctx, vm, "tcp", fmt.Sprintf("%s:%d", lab.Gateway, lab.ProxyPort))
	if err == nil {
		conn.Close()
		return errors.New("it reaches something at its proxy port")
	}
	return nil
}

func TestEachAppVMHasItsOwnList(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("banking.10.137.0.11", bank)
		s.rules("shopping.10.137.0.12", shop)
		s.rules("twin.10.137.7.11", shop) // the same last octet as banking
		s.start()
		s.attach("banking", "10.137.0.11")
		s.attach("shopping", "10.137.0.12")
		s.attach("twin", "10.137.7.11")
		s.attach("stranger", "10.137.0.13")

		s.opens("banking", "http://bank.example/", "https://bank.example/")
		s.refuses("banking", "http://shop.example/", "https://shop.example/")
		s.opens("shopping", "http://shop.example/", "https://shop.example/")
		s.refuses("shopping", "http://bank.example/", "https://bank.example/")
		s.opens("twin", "http://shop.example/")
		s.refuses("twin", "http://bank.example/")
		if n, err := s.Reached("bank.example", 0); err != nil || n != 2 {
			t.Errorf("bank.example was reached %d times (%v), want by banking alone, twice", n, err)
		}
		if err := s.cutOff("stranger"); err != nil {
			t.Errorf("an AppVM without a rule file: %v", err)
		}

		// No other AppVM gets to banking's proxy: not at its own port, not with banking's address.
		port := uint16(s.show()["banking"].Port)
		target := netip.AddrPortFrom(lab.Gateway, port).String()
		for _, vm := range []string{"shopping", "stranger"} {
			ctx, cancel := context.WithTimeout(t.Context(), 2e9)
			if conn, err := s.Dial(ctx, vm, "tcp", target); err == nil {
				conn.Close()
				t.Errorf("%s reaches banking's proxy at %s", vm, target)
			}
			for _, to := range []string{target, fmt.Sprintf("%s:%d", lab.Gateway, lab.ProxyPort)} {
				if conn, err := s.DialFrom(ctx, vm, netip.MustParseAddr("10.137.0.11"), "tcp", to); err == nil {
					conn.Close()
					t.Errorf("%s, as banking, reaches %s", vm, to)
				}
			}
			cancel()
		}
		s.stop()
	})
}
