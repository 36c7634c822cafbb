package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/control"
)

func TestRuleFilesComeChangeAndGo(t *testing.T) {
	onBoth(t, func(s *site) {
		s.attach("work", "10.137.0.11")
		s.start()
		if err := s.cutOff("work"); err != nil {
			t.Error(err)
		}
		s.rules("work.10.137.0.11", bank)
		s.opens("work", "http://bank.example/")
		s.refuses("work", "http://shop.example/")

		s.rules("work.10.137.0.11", bank, shop)
		s.opens("work", "http://shop.example/")
		s.rules("work.10.137.0.11", shop)
		s.until("bank is refused again", func() error {
			if r := s.Get("work", "http://bank.example/"); r.Status != 403 {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})

		s.must(os.Rename(filepath.Join(s.rulesDir(), "work.10.137.0.11"), filepath.Join(s.rulesDir(), "play.10.137.0.11")))
		s.untilState("play", control.Running)
		if err := s.page("work", "http://shop.example/"); err != nil {
			t.Errorf("after its rule file was renamed: %v", err)
		}
		if _, there := s.show()["work"]; there {
			t.Error("the old name is still shown")
		}
		s.removeRules("play.10.137.0.11")
		s.until("the AppVM is cut off", func() error { return s.cutOff("work") })
		s.stop()
	})
}

func TestBadFilesHurtOneAppVM(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("good.10.137.0.11", bank)
		s.rules("bad.10.137.0.12", bank)
		s.attach("good", "10.137.0.11")
		s.attach("bad", "10.137.0.12")
		s.start()
		s.opens("bad", "http://bank.example/")
		before := s.show()

		for _, test := range []struct{ line, message string }{
			{`^bank\.example $`, "bad.10.137.0.12:1"},          // tinyproxy would read ^bank\.example
			{`^\(bank\.example$`, "bad.10.137.0.12:1"},         // tinyproxy refuses it
			{"#: egress 192.168.0.0/16x", "bad.10.137.0.12:1"}, // no network
			{strings.Repeat("x", 600), "bad.10.137.0.12:1"},    // tinyproxy would cut it
		} {
			s.rules("bad.10.137.0.12", test.line)
			_, errs, status := s.ctl("update")
			if status != 1 || !strings.Contains(errs, "bad (10.137.0.12)") || !strings.Contains(errs, test.message) {
				t.Errorf("update with %.40q: exit status %d, %s", test.line, status, errs)
			}
			vm := s.show()["bad"]
			if vm.State != control.Running || vm.PID != before["bad"].PID || !strings.Contains(vm.Error, test.message) {
				t.Errorf("with %.40q: %+v", test.line, vm)
			}
			if err := s.page("bad", "http://bank.example/"); err != nil {
				t.Errorf("the last good rules with %.40q: %v", test.line, err)
			}
		}
		s.rules("config", "Port {prot}")
		if _, errs, status := s.ctl("update"); status != 1 || !strings.Contains(errs, "config:1") {
			t.Errorf("update with a bad template: exit status %d, %s", status, errs)
		}
		if now := s.show()["good"]; now.PID != before["good"].PID || now.State != control.Running {
			t.Errorf("good was disturbed: %+v, before %+v", now, before["good"])
		}
		s.removeRules("config")
		s.rules("bad.10.137.0.12", bank)
		s.update()
		if now := s.show()["bad"]; now.Error != "" {
			t.Errorf("mended: %+v", now)
		}
		s.stop()
	})
}
