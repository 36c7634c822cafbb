package main

import (
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// remedy returns what explain offers for a request.
func (s *site) remedy(request string) string {
	s.Helper()
	said, _, _ := s.ctl("explain", "work", request)
	_, text, _ := strings.Cut(said, "    remedy        ")
	text, _, _ = strings.Cut(text, "\n")
	return text
}

// What explain offers makes the request pass, and the next one too: it is followed here to the letter.
func TestEveryRemedyKeepsItsPromise(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.must(s.DoInternet(func() error {
		return exec.Command("ip", "route", "add", "local", "198.18.0.0/15", "dev", "lo").Run()
	}))
	for host, addr := range map[string]string{"lan.example": "10.9.8.7", "nas.example": "10.9.8.9", "home.example": "192.168.1.5",
		"fake.example": "198.18.0.9", "own.example": "127.0.0.1", "other.example": "10.137.0.12"} {
		s.Host(host, netip.MustParseAddr(addr))
	}
	path := filepath.Join(s.rulesDir(), "work.10.137.0.11")
	file := []string{bank, `^lan\.example$`, `^fake\.example$`, `^own\.example$`, `^other\.example$`}
	s.rules("work.10.137.0.11", file...)
	s.attach("work", "10.137.0.11")
	s.attach("other", "10.137.0.12")
	s.start()
	s.untilState("work", control.Running)
	for request, want := range map[string]string{
		"http://lan.example/":           "write the line `#: egress 10.9.8.7/32:80` into " + path,
		"https://lan.example:8443/":     "write the line `#: egress 10.9.8.7/32:8443` into " + path,
		"https://nas.example/":          "write the lines `^nas\\.example$` and `#: egress 10.9.8.9/32:443` into " + path,
		"https://bank.example:8443/":    "vifproxyctl allow work bank.example:8443",
		"shop.example:8443":             "vifproxyctl allow work shop.example:8443",
		"http://bank.example:22/":       "vifproxyctl allow work bank.example:22",
		"ws://bank.example/":            "vifproxyctl allow work ws://bank.example",
		"https://fake.example/":         "write the line `#: egress 198.18.0.0/15:443` into " + path,
		"https://198.51.100.9/":         "vifproxyctl allow work 198.51.100.9",
		"http://192.168.1.5:8443/":      "write the lines `^192\\.168\\.1\\.5$` and `#: egress 192.168.1.5/32:8443` into " + path,
		"https://home.example:8443/a?b": "write the lines `^home\\.example$` and `#: egress 192.168.1.5/32:8443` into " + path,
	} {
		text := s.remedy(request)
		if text != want+" (tried: it passes then)" {
			t.Errorf("%s: %q, want %q", request, text, want)
			continue
		}
		if command, ok := strings.CutPrefix(want, "vifproxyctl "); ok {
			if said, errors, code := s.ctl(strings.Fields(command)...); code != 0 {
				t.Errorf("%s: status %d: %s%s", command, code, said, errors)
			}
		} else {
			lines := slices.Clone(file)
			for i, part := range strings.Split(want, "`") {
				if i%2 == 1 {
					lines = append(lines, part)
				}
			}
			s.rules("work.10.137.0.11", lines...)
			s.update()
		}
		s.explained(passes, "work", request, "try           ")
		if request == "https://fake.example/" { // the next answer has another address
			s.Host("fake.example", netip.MustParseAddr("198.19.3.4"))
			s.explained(passes, "work", request, "try           ")
		}
		s.rules("work.10.137.0.11", file...)
		s.update()
	}
	for _, request := range []string{"https://own.example/", "http://127.0.0.1/", "http://10.138.1.1/", "http://other.example/"} {
		if text := s.remedy(request); strings.Contains(text, "tried: ") || strings.Contains(text, "egress") {
			t.Errorf("%s: %s", request, text)
		}
	}
	if text := s.remedy("http://lan.example:8081/"); !strings.HasPrefix(text, "none by the rule file: with the line `#: egress 10.9.8.7/32:8081` it fails all the same: ") {
		t.Errorf("nobody listens there: %s", text)
	}
	s.stop()
}

// What a remedy would open is open for its trial alone, not for the AppVM.
func TestARemedyThatIsTriedOpensNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.Host("lan.example", netip.MustParseAddr("10.9.8.7"))
	s.rules("work.10.137.0.11", `^lan\.example$`)
	s.attach("work", "10.137.0.11")
	s.start()
	s.untilState("work", control.Running)
	tried := make(chan bool)
	go func() {
		defer close(tried)
		for range 4 {
			s.ctl("explain", "work", "http://lan.example/")
		}
	}()
	for under := true; under; {
		if r := s.Get("work", "http://lan.example/"); r.Status == 200 {
			t.Fatal("the AppVM gets what only a trial may reach")
		}
		select {
		case <-tried:
			under = false
		default:
		}
	}
	s.templateWith("BasicAuth user password")
	s.update()
	if text := s.remedy("http://shop.example/"); text != "none by the rule file: the template keeps the AppVM out whatever that says" {
		t.Errorf("with a template that keeps it out: %s", text)
	}
	s.stop()
}
