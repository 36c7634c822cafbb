package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// The daemon tells once of an AppVM with an address that nobody has had for long. With --on-unseen=hold, it does not serve that before a person
// says so. The record outlives the daemon.
func TestUnseenForLong(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	seen := filepath.Join(s.stateDir(), "seen")
	s.rules("banking.10.137.0.11", bank)
	s.rules("disp.10.138.0.0_16", bank) // whoever has such an address has the list
	s.attach("banking", "10.137.0.11")
	s.attach("other", "10.138.0.1")
	s.start()
	s.opens("banking", "http://bank.example/")
	s.opens("other", "http://bank.example/")
	vif := s.show()["banking"].Interfaces[0]
	if sighting := s.show()["banking"].Sighting; sighting.Vif != vif || sighting.Doubt != "" {
		s.Errorf("show: %+v", sighting)
	}
	s.stop()

	// So long ago was that, and this VM has run all the time.
	ago := func() {
		text, err := os.ReadFile(seen)
		s.must(err)
		if !strings.Contains(string(text), vif) || strings.Contains(string(text), "10.138.0.1") {
			s.Errorf("the record:\n%s", text)
		}
		last := regexp.MustCompile(`"last": "[^"]*"`)
		s.must(writeFile(seen, last.ReplaceAll(text, []byte(fmt.Sprintf(`"last": %q`, time.Now().AddDate(0, 0, -40).Format(time.RFC3339)))), 0o640))
	}
	ago()
	s.start()
	s.opens("banking", "http://bank.example/") // it is not refused
	doubt := "nobody has been connected for this list since " + time.Now().AddDate(0, 0, -40).Format(time.DateOnly) + ", by " + vif
	if got := s.show()["banking"].Sighting.Doubt; got != doubt {
		s.Errorf("show: %q, want %q", got, doubt)
	}
	s.says("show", doubt, "remove the list")
	if n := strings.Count(s.daemon.log.String(), "an AppVM has an address that nobody has had for long"); n != 1 {
		s.Errorf("told of %d times:\n%s", n, s.daemon.log)
	}
	s.detach("banking")
	s.until("banking has gone", func() error {
		if vm := s.show()["banking"]; vm.State != control.Waiting || vm.Sighting.Doubt != "" {
			return fmt.Errorf("%+v", vm)
		}
		return nil
	})
	s.attach("banking", "10.137.0.11")
	vif = "vif" // another one
	s.opens("banking", "http://bank.example/")
	if vm := s.show()["banking"]; vm.Sighting.Doubt != "" {
		s.Errorf("told of again: %+v", vm.Sighting)
	}
	s.stop()

	ago()
	s.start("--on-unseen=hold")
	s.until("banking is stopped", func() error {
		if vm := s.show()["banking"]; vm.State != control.Stopped || !strings.Contains(vm.StoppedBy, "--on-unseen=hold") {
			return fmt.Errorf("%+v", vm)
		}
		return nil
	})
	s.must(s.cutOff("banking"))
	if _, errs, status := s.ctl("start", "banking"); status != 0 {
		s.Errorf("start: exit status %d: %s", status, errs)
	}
	s.opens("banking", "http://bank.example/")
	s.stop()

	// If a record cannot be read, the log says so. The next one begins.
	s.must(writeFile(seen, []byte("{"), 0o640))
	s.start("--on-unseen=hold")
	s.opens("banking", "http://bank.example/")
	if !strings.Contains(s.daemon.log.String(), "it begins again") {
		s.Errorf("the log:\n%s", s.daemon.log)
	}
	s.stop()
}
