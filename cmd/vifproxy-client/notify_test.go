package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// A button calls the service for the hosts that the notification names, one after the other, and the person is told what came of it.
func TestAButtonCallsTheService(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	screen := s.screen("actions", "body", "body-markup")
	s.start("notify")
	stream := s.called("vifproxy.Denied")
	refuse(stream, "bank-cdn.example", "static.bank-cdn.example", "img.bank-cdn.example:8443")
	n := screen.await("Refused: bank-cdn.example", "img.bank-cdn.example:8443\nstatic.bank-cdn.example", true)

	pressed := time.Now()
	screen.press(n.id, keyMinutes)
	c := s.called("vifproxy.Allow+img.bank-cdn.example+8443")
	t.Logf("from the button to the service: %v", time.Since(pressed))
	c.Say("img.bank-cdn.example:8443 passes for 10 minutes\n")
	c.Exit(0)
	c = s.called("vifproxy.Allow+static.bank-cdn.example")
	c.Say("no: \x1b[2J<b>no</b> & never\nand more\n")
	c.Exit(1)
	screen.await("Allowed in part",
		"img.bank-cdn.example:8443 passes for 10 minutes\nstatic.bank-cdn.example: [2J&lt;b&gt;no&lt;/b&gt; &amp; never", false)

	// The other site has a notification of its own, and the other button is for good.
	refuse(stream, "other.example", "other.example")
	n = screen.await("Refused: other.example", "other.example", true)
	screen.press(n.id, "default") // a click on the notification decides nothing
	refuse(stream, "third.example", "a.third.example")
	n = screen.await("Refused: third.example", "a.third.example", true)
	screen.press(n.id, keyAlways)
	c = s.called("vifproxy.AllowAlways+a.third.example")
	c.Exit(0)
	screen.await("Allowed: reload the page", "a.third.example is allowed.", false)
	refuse(stream, "fourth.example", "fourth.example")
	n = screen.await("Refused: fourth.example", "fourth.example", true)
	screen.press(n.id, keyMinutes)
	s.called("vifproxy.Allow+fourth.example").Exit(policyRefused)
	screen.await("Not allowed", "fourth.example: refused in dom0", false)
}

// Only names of hosts are shown, whatever the stream says. A line that makes no sense is passed over.
func TestAHostileStream(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	screen := s.screen("actions", "body-markup")
	s.start("notify")
	stream := s.called("vifproxy.Denied")
	for _, line := range []string{
		"", "null", "[]", "{}", `"bank.example"`, "\x00\xff", "{", `{"host":7}`, `{"host":"bank.example","port":-1}`,
		`{"host":"bank.example","port":65536}`, `{"host":"<b>bank</b>.example","port":443}`, `{"host":"bank.example\u202e","port":443}`,
		`{"host":"bank.example\nx","port":443}`, `{"host":"*.example","port":443}`, `{"host":"","port":443}`, `{"host":"[::1]","port":443}`,
		`{"host":"../../etc","port":443}`, `{"host":"bank.example+8443","port":443}`, `{"host":"-a.example","port":443}`,
		`{"host":"` + strings.Repeat("a", lineMax) + `","port":443}`, strings.Repeat("x", 1<<20),
		`{"host":"` + strings.Repeat("a.", 130) + `example","port":443}`,
	} {
		stream.Say(line + "\n")
	}
	// A site that the host does not belong to, or that is everybody's, is not believed.
	refuse(stream, "bank.example", "evil.example")
	screen.await("Refused: evil.example", "evil.example", true)
	refuse(stream, "co.uk", "evil.co.uk")
	screen.await("Refused: evil.co.uk", "evil.co.uk", true)
	refuse(stream, "com", "evil.com")
	screen.await("Refused: evil.com", "evil.com", true)
	if len(screen.shown) > 0 {
		t.Errorf("shown in addition: %+v", <-screen.shown)
	}
}

// A page that asks for very many hosts gets a handful of notifications. The last of these counts the rest.
func TestAFloodDrawsAHandful(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	screen := s.screen("actions")
	s.start("notify")
	stream := s.called("vifproxy.Denied")
	const sites = 10000
	var b strings.Builder
	for i := range sites {
		fmt.Fprintf(&b, `{"host":"a.s%d.example","port":443,"site":"s%[1]d.example"}`+"\n", i)
	}
	stream.Say(b.String())
	draws, counted := 0, 0
	for counted < sites-shownSites {
		n := screen.next()
		draws++
		var more int
		if _, err := fmt.Sscanf(n.title, "Refused: %d more sites", &more); err == nil {
			counted += more
			if !strings.Contains(n.body, "vifproxy-unblock") || len(n.actions) > 0 {
				t.Errorf("%+v", n)
			}
		}
		if draws > 20 {
			t.Fatalf("%d notifications, and %d sites are counted", draws, counted)
		}
	}
	t.Logf("%d notifications", draws)
	s.until("the record has the last ones", func() error {
		text, err := os.ReadFile(s.dir + "/vifproxy-client/refused.json")
		if err == nil && !strings.Contains(string(text), fmt.Sprintf("a.s%d.example", sites-1)) {
			err = errors.New(string(text))
		}
		return err
	})
}

// On a desktop without buttons, the notification names the program that asks in a terminal. That one lists the refused hosts.
func TestInATerminal(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	screen := s.screen()
	if out, status := s.run("", "unblock"); status != 1 || !strings.Contains(out, "nothing was refused since the session began") {
		t.Errorf("%d: %s", status, out)
	}
	s.start("notify")
	stream := s.called("vifproxy.Denied")
	refuse(stream, "www.google.com", "www.google.com")
	screen.await("Refused: www.google.com", "www.google.com (Chromium prepares its search engine)\n"+
		"To allow a host, run `vifproxy-unblock` in a terminal.", false)
	refuse(stream, "cdn.example", "a.cdn.example", "b.cdn.example:8443", "a.cdn.example")
	screen.next()
	s.until("the record has them", func() error {
		text, err := os.ReadFile(s.dir + "/vifproxy-client/refused.json")
		if err == nil && !strings.Contains(string(text), "b.cdn.example") {
			err = errors.New(string(text))
		}
		return err
	})

	if out, status := s.run("\n", "unblock"); status != 0 || !strings.Contains(out, "  1  a.cdn.example  ") ||
		!strings.Contains(out, "  3  www.google.com  ") {
		t.Errorf("%d: %s", status, out)
	}
	if out, status := s.run("", "unblock"); status != 1 || !strings.Contains(out, "no answer: nothing is allowed") {
		t.Errorf("%d: %s", status, out)
	}
	go func() {
		c := s.called("vifproxy.AllowAlways+b.cdn.example+8443")
		c.Say("in force\n")
		c.Exit(0)
		s.called("vifproxy.AllowAlways+a.cdn.example").Exit(policyRefused)
	}()
	if out, status := s.run("2 4\n2 1\nx\na\n", "unblock"); status != 1 || !strings.Contains(out, "4 is no number from 1 to 3") ||
		!strings.Contains(out, "in force\n") || !strings.Contains(out, "a.cdn.example: refused in dom0\n") {
		t.Errorf("%d: %s", status, out)
	}
	go func() { s.called("vifproxy.Allow+shop.example+8443").Exit(0) }()
	if out, status := s.run("", "unblock", "https://Shop.example:8443/x?y"); status != 0 || !strings.Contains(out, "shop.example:8443 is allowed.") {
		t.Errorf("%d: %s", status, out)
	}
}

// Another program that shows notifications does not know those of the one before.
func TestAnotherDesktop(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	first := s.screen("actions")
	s.start("notify")
	stream := s.called("vifproxy.Denied")
	refuse(stream, "cdn.example", "a.cdn.example")
	if n := first.await("Refused: cdn.example", "a.cdn.example", true); n.replaces != 0 {
		t.Errorf("%+v", n)
	}
	refuse(stream, "cdn.example", "b.cdn.example")
	if n := first.await("Refused: cdn.example", "b.cdn.example\na.cdn.example", true); n.replaces != 1 {
		t.Errorf("%+v", n)
	}
	second := s.screen()
	refuse(stream, "cdn.example", "c.cdn.example")
	if n := second.next(); n.replaces != 0 || len(n.actions) != 0 {
		t.Errorf("%+v", n)
	}
}

// A stream that has ended is called again, and the other side sees when this one ends.
func TestTheStreamIsCalledAgain(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	screen := s.screen("actions")
	p := s.start("notify")
	stream := s.called("vifproxy.Denied")
	stream.Say(`{"host":"half.exam`)
	stream.Exit(0)
	stream = s.called("vifproxy.Denied")
	stream.Say("no: there is no list of its own for x\x1b\n")
	stream.Exit(1)
	again := s.called("vifproxy.Denied")
	refuse(again, "cdn.example", "cdn.example")
	screen.await("Refused: cdn.example", "cdn.example", true)
	if log := p.log.String(); !strings.Contains(log, "vifproxy.Denied has ended: the firewall VM restarts") ||
		!strings.Contains(log, "exit status 1: there is no list of its own for x ") {
		t.Errorf("the log: %s", log)
	}
	must(t, p.Process.Kill())
	select {
	case <-again.Ended:
	case <-time.After(patience):
		t.Error("the other side does not see that this one has ended")
	}
}

// The first program that shows notifications shows also what was refused before it came.
func TestADesktopThatComesLater(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	p := s.start("notify")
	stream := s.called("vifproxy.Denied")
	refuse(stream, "cdn.example", "a.cdn.example")
	s.until("it says that nothing can be shown", func() error {
		if log := p.log.String(); !strings.Contains(log, "no notification can be shown") {
			return errors.New(log)
		}
		return nil
	})
	screen := s.screen("actions")
	screen.await("Refused: cdn.example", "a.cdn.example", true)
}
