package main

import (
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/internal/lab"
	"vifproxy/internal/screen/screentest"
)

// A person looks at the real daemon: an AppVM sends what would draw on the terminal, a refused host is added to its list and opens, and the
// screen says that the daemon has gone, that it is back, and that the AppVM has left.
func TestLive(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("work.10.137.23.11", "#: format domains", "bank.example")
	s.attach("work", "10.137.23.11")
	s.start()
	s.opens("work", "http://bank.example/")
	for _, host := range []string{"\x1b[2J\x1b[1;1Hgone.example", "\xc2\x9b31m\xff.example", "\xe2\x80\xae.example", strings.Repeat("bank.example.", 15) + "evil.example"} {
		if _, err := s.ask("work", "CONNECT "+host+":443 HTTP/1.0\r\n\r\n"); err != nil {
			t.Errorf("%q: %v", host, err)
		}
	}
	s.deniedOne("work", strings.Repeat("bank.example.", 15)+"evil.example")
	s.refuses("work", "https://shop.example/")
	s.deniedOne("work", "shop.example")

	enter := s.Command(t.Context(), "").Args
	term := screentest.New(t, enter[:len(enter)-1], 80, 24, nil, filepath.Join(programs, "vifproxyctl"), "--socket="+s.socket(), "live")
	screen := term.Shows("AppVMs with a list: 1, 1 running", "shop.example", ".evil.example", "gone.example")
	if strings.ContainsFunc(screen, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
		t.Errorf("an AppVM draws on the screen: %q", screen)
	}
	term.Type("Down")
	term.Shows("stands still", "> ")
	term.Type("A")
	term.Shows("vifproxyctl allow work shop.example", "y does it")
	s.refuses("work", "https://shop.example/")
	term.Answer("y", "y does it")
	term.Shows("in force after", "CONNECT shop.example:443 by work: passes", "done")
	s.opens("work", "https://shop.example/")
	term.Type("Escape")
	term.Shows("stands still")
	term.Type("Tab", "Down", "h")
	term.Shows("vifproxyctl stop work", "y does it")
	term.Answer("y", "y does it")
	term.Shows("done")
	s.must(s.cutOff("work"))
	term.Type("Escape")
	term.Shows("AppVMs with a list: 1, 1 stopped", "UP/s") // the lists: a key right behind Escape is another key
	term.Type("h")
	term.Shows("vifproxyctl start work", "y does it")
	term.Answer("y", "y does it")
	term.Shows("done")
	s.opens("work", "http://bank.example/")
	term.Type("Escape")
	term.Shows("> work")

	s.refuses("work", "https://cdn.example/")
	s.deniedOne("work", "cdn.example")
	if out := s.on(0, "denied", "work", "--accept=cdn.example"); !strings.Contains(out, "in force after") {
		t.Error(out)
	}
	s.stop()
	term.Shows("vifproxyd does not answer. This is how it was at ")
	s.start()
	term.Shows("AppVMs with a list: 1, 1 running")
	s.detach("work")
	term.Shows("AppVMs with a list: 1, 1 waiting")
	term.Type("q")
	if status, screen := term.Ends(); status != 0 {
		t.Errorf("exit status %d\n%s", status, screen)
	}
	s.stop()
}
