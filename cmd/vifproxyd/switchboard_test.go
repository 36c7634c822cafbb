package main

import (
	"testing"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// way returns how AppVMs get to their proxies.
func (s *site) way() control.Switchboard {
	s.Helper()
	status, err := control.NewClient(s.socket()).Status(s.Context())
	s.must(err)
	return status.Setup.Switchboard
}

func TestSwitchboard(t *testing.T) {
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", bank)
	s.attach("work", "10.137.0.11")
	s.start()
	if is := s.way(); !is.Used {
		t.Fatalf("%+v", is)
	}
	s.opens("work", "http://bank.example/", "https://bank.example/")
}
