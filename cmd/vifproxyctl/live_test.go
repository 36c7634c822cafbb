package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/await"
	"vifproxy/internal/events"
	"vifproxy/internal/screen/screentest"
)

// inTerminal runs vifproxyctl in a terminal, with more variables in its environment.
func inTerminal(t *testing.T, width, height int, variables []string, args ...string) *screentest.Terminal {
	t.Helper()
	program := filepath.Join(t.TempDir(), "vifproxyctl") // by this name testscript.Main runs it
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, program)
	}
	if err != nil {
		t.Fatal(err)
	}
	return screentest.New(t, nil, width, height, append([]string{"TZ=UTC", "GORACE=atexit_sleep_ms=0"}, variables...),
		append([]string{program}, args...)...)
}

// serve lets a fake daemon listen on a socket until stop is called.
func serve(t *testing.T, socket string, f *fakeDaemon) (stop func()) {
	t.Helper()
	l, err := control.Listen(socket, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- control.Serve(ctx, l, f, slog.New(slog.DiscardHandler)) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := errors.Join(<-served, l.Close()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// A bank is a fake daemon with AppVMs and what was refused to them, behind a socket, and the rule file of one of them.
type bank struct {
	*fakeDaemon
	socket, list string
	stop         func()
}

func newBank(t *testing.T) *bank {
	t.Helper()
	dir := t.TempDir()
	host := func(name string, port uint16, seconds int, reason events.Reason, browser string) events.DeniedHost {
		at := noon.Add(time.Duration(seconds) * time.Second)
		return events.DeniedHost{Host: name, Port: port, Reason: reason, Count: 2, First: at, Last: at, Browser: browser}
	}
	b := &bank{socket: filepath.Join(dir, "sock"), list: filepath.Join(dir, "banking.10.137.0.11"), fakeDaemon: &fakeDaemon{
		status: control.Status{Setup: control.Setup{RulesDir: dir}, VMs: []control.VM{
			{Name: "banking", IP: "10.137.0.11", State: control.Running, Interfaces: []string{"vif117.0"}},
			{Name: "mail", IP: "10.137.0.12", State: control.Stopped, Interfaces: []string{"vif118.0"}},
			{Name: "work", IP: "10.137.0.13", State: control.Waiting},
		}},
		denied: []events.Denied{{VM: "banking", IP: "10.137.0.11", Hosts: []events.DeniedHost{
			host("cdn.bank.example", 443, 30, events.ReasonList, ""), host("static.bank.example", 443, 20, events.ReasonList, ""),
			host("shop.example", 8443, 10, events.ReasonPort, ""),
			host("incoming.telemetry.mozilla.org", 443, 40, events.ReasonList, "Firefox sends telemetry")}},
			{VM: "work", IP: "10.137.0.13", Hosts: []events.DeniedHost{host("git.example", 22, 5, events.ReasonConnect, "")}}},
	}}
	if err := os.WriteFile(b.list, []byte("#: format domains\nwww.bank.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.stop = serve(t, b.socket, b.fakeDaemon)
	return b
}

// change changes what the daemon says.
func (b *bank) change(how func(*fakeDaemon)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	how(b.fakeDaemon)
}

// was waits until the daemon was asked something.
func (b *bank) was(t *testing.T, asked string) {
	t.Helper()
	await.Until(t, "the daemon is asked: "+asked, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.Contains(b.asked, asked)
	})
}

// never asked: no question for the daemon begins so.
func (b *bank) never(t *testing.T, asked string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, was := range b.asked {
		if strings.HasPrefix(was, asked) {
			t.Errorf("the daemon was asked: %s", was)
		}
	}
}

// The screens are drawn as the guide shows them.
func TestScreensOfTheGuide(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	has := func(screen string) {
		t.Helper()
		if block := "```\n" + strings.TrimRight(screen, "\n") + "\n```\n"; !strings.Contains(string(guide), block) {
			t.Errorf("docs/guide.md does not have this screen:\n%s", block)
		}
	}
	b := newBank(t)
	term := inTerminal(t, 80, 14, nil, "--socket="+b.socket, "live")
	term.Shows("static.bank.example")
	term.Type("Down", "Down")
	has(term.Shows("> 12:00:20"))
	term.Type("q")
	term.Ends()

	term = inTerminal(t, 80, 14, nil, "--socket="+b.socket, "denied", "banking", "--pick")
	term.Shows("*.bank.example")
	term.Type("Down", "Space")
	has(term.Shows("[x] cdn.bank.example"))
	term.Type("Enter")
	has(term.Shows("+ cdn.bank.example"))
	term.Answer("q", "Enter writes it")
	term.Shows("Space ticks")
	term.Type("q")
	term.Ends()
}

// A host that is marked stays marked while others come, goes to the daemon as it was marked, and only after y.
func TestLiveAllows(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	term := inTerminal(t, 80, 24, nil, "--socket="+b.socket, "live")
	term.Shows("static.bank.example")
	term.Type("Down", "Down")
	term.Shows("> 12:00:20 banking      static.bank.example")
	b.change(func(f *fakeDaemon) {
		var flood []events.DeniedHost
		for i := range events.DeniedHostsMax {
			at := noon.Add(time.Minute)
			flood = append(flood, events.DeniedHost{Host: fmt.Sprintf("evil%d.example", i), Port: 443, Reason: events.ReasonList, Count: 1, First: at, Last: at})
		}
		f.denied[0].Hosts = flood
	})
	term.Shows("> 12:00:20 banking      static.bank.example", "256 newer")
	term.Type("a")
	term.Shows("vifproxyctl allow banking static.bank.example --for=10m", "y does it")
	b.never(t, "allow")
	term.Answer("y", "y does it")
	term.Shows("allowed for 10m", "done")
	b.was(t, "allow static.bank.example 600 s banking")
	term.Type("Escape")
	term.Shows("> 12:00:20 banking      static.bank.example")
	term.Type("A")
	term.Shows("would be added to "+b.list[:20], "y does it")
	if content, _ := os.ReadFile(b.list); strings.Contains(string(content), "static") {
		t.Errorf("before y: %s", content)
	}
	term.Answer("y", "y does it")
	term.Shows("added to", "in force after", "done")
	if content, _ := os.ReadFile(b.list); string(content) != "#: format domains\nwww.bank.example\nstatic.bank.example\n" {
		t.Errorf("the list is %s", content)
	}
	term.Type("Escape")
	term.Shows("stands still")
	term.Type("r")
	term.Shows("12:01:00 banking      evil0.example")
	term.Type("q")
	if status, screen := term.Ends(); status != 0 || strings.Contains(screen, "evil") {
		t.Errorf("exit status %d, and the terminal shows\n%s", status, screen)
	}
}

// Explaining and holding; a daemon that goes and comes back, an AppVM that leaves, and a terminal that gets small.
func TestLiveFollows(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	term := inTerminal(t, 80, 24, nil, "--socket="+b.socket, "live")
	term.Shows("static.bank.example")
	term.Type("Down", "e")
	term.Shows("CONNECT cdn.bank.example:443 by banking: passes")
	term.Type("Escape")
	term.Shows("stands still")
	term.Type("Tab", "Down", "h")
	term.Shows("vifproxyctl stop banking", "y does it")
	b.never(t, "stop")
	term.Answer("y", "y does it")
	b.was(t, "stop banking")
	term.Shows("done")
	term.Type("Escape")
	term.Shows("> banking")
	b.change(func(f *fakeDaemon) { f.status.VMs = f.status.VMs[1:] })
	term.Shows("AppVMs with a list: 2, 1 waiting, 1 stopped")
	b.stop()
	term.Shows("vifproxyd does not answer. This is how it was at ")
	b.stop = serve(t, b.socket, b.fakeDaemon)
	term.Shows("AppVMs with a list: 2, 1 waiting, 1 stopped")
	term.Type("Tab")
	term.Resize(20, 5)
	term.Shows("AppVMs with a list:", "> cdn.bank.example")
	term.Type("h")
	term.Shows("mark an AppVM first")
	term.Type("Tab")
	term.Resize(100, 30)
	term.Shows("? help  q quit", "git.example")
	term.Type("C-c")
	if status, _ := term.Ends(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// colours matches what chooses a colour (ECMA-48, SGR) but for that of the terminal.
var colours = regexp.MustCompile(`\x1b\[([0-9]+;)*(3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]`)

// Nothing that an AppVM sends draws on the screen, and the end of a host, which says whose it is, is seen.
func TestLiveShowsHostileNames(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	b.change(func(f *fakeDaemon) {
		for i, name := range []string{"\x1b[2J\x1b]0;evil\a\x1b[1;1Hgone", "\u009b31mbank", strings.Repeat("bank.example.", 30) + "evil.example",
			"bank.example  443 list", "漢字.example", "a\u0301\u202e.example", "\\x1b[2J.example"} {
			f.denied[0].Hosts = append(f.denied[0].Hosts, events.DeniedHost{Host: name, Port: 443, Reason: events.ReasonName, Why: name, Count: 1,
				First: noon, Last: noon.Add(time.Duration(i+100) * time.Second)})
		}
		f.status.VMs[1].Interfaces = []string{"\x1b[2J"}
	})
	for _, size := range [][2]int{{80, 24}, {120, 40}, {50, 20}} {
		term := inTerminal(t, size[0], size[1], []string{"NO_COLOR=1"}, "--socket="+b.socket, "live")
		screen := term.Shows("banking", ".evil.example", "cdn.bank.example")
		for line := range strings.Lines(screen) {
			if strings.ContainsFunc(line, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
				t.Errorf("%q is on the screen", line)
			}
		}
		if n := strings.Count(screen, "banking"); size[0] > 60 && n != 12 { // rows and no more
			t.Errorf("%d rows are of banking:\n%s", n, screen)
		}
		if colour := colours.FindString(term.Coloured()); colour != "" {
			t.Errorf("%q although NO_COLOR is set", colour)
		}
		term.Type("q")
		term.Ends()
	}
	if !strings.Contains(colours.FindString("\x1b[1;31mx"), "31") {
		t.Error("this test knows no colours")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "vifproxyctl")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	term := screentest.New(t, nil, 80, 24, nil, "env", "TERM=dumb", program, "--socket="+b.socket, "live")
	if status, screen := term.Ends(); status != exitFailed || !strings.Contains(screen, "TERM=dumb this terminal cannot place a cursor: see") {
		t.Errorf("TERM=dumb: exit status %d\n%s", status, screen)
	}
}

// Ticked lines are added, once the list as it would be has been seen. Pasted text adds nothing.
func TestPick(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	term := inTerminal(t, 80, 24, nil, "--socket="+b.socket, "denied", "banking", "--pick")
	term.Shows("[ ] bank.example", "[ ] *.bank.example", "instead; also permits a.bank.example", "[ ] shop.example:8443",
		"opens port 8443", "Browsers request these without a page:", "Firefox sends telemetry")
	term.Type("Enter")
	term.Shows("nothing is ticked")
	term.Paste(" \r\r")
	term.Type("Space") // the site
	term.Shows("[x] bank.example", "[x] cdn.bank.example", "[x] static.bank.example", "[ ] *.bank.example")
	term.Type("Down", "Down", "Down", "Space")
	term.Shows("[x] *.bank.example", "the wildcard stands for it")
	term.Type("Enter")
	term.Shows("This is the list as it would be", "  www.bank.example", "+ *.bank.example", "Enter writes it")
	if content, _ := os.ReadFile(b.list); string(content) != "#: format domains\nwww.bank.example\n" {
		t.Errorf("before it was written, the list is %s", content)
	}
	term.Type("Escape")
	term.Shows("[x] *.bank.example")
	term.Type("Enter")
	term.Shows("Enter writes it")
	term.Answer("Enter", "Enter writes it")
	if status, screen := term.Ends(); status != 0 || !strings.Contains(screen, "in force after ") {
		t.Errorf("exit status %d\n%s", status, screen)
	}
	if content, _ := os.ReadFile(b.list); string(content) != "#: format domains\nwww.bank.example\n*.bank.example\n" {
		t.Errorf("the list is %s", content)
	}

	term = inTerminal(t, 40, 8, nil, "--socket="+b.socket, "denied", "banking", "--pick")
	term.Shows("shop.example:8443")
	term.Type("a", "q")
	if status, screen := term.Ends(); status != 0 || !strings.Contains(screen, "nothing was changed") {
		t.Errorf("exit status %d\n%s", status, screen)
	}
	b.never(t, "allow")
}

// After a lesson, what was reached is ticked on the terminal, and what was refused at a port that is not open; three keys make the list.
func TestLearnPicks(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	b.change(func(f *fakeDaemon) {
		f.lesson = []control.Lesson{{Event: control.LessonBegins, VM: "banking", Seconds: 600}}
		for _, host := range []string{"www.bank.example", "cdn.bank.example", "img.bank.example"} {
			f.lesson = append(f.lesson, control.Lesson{Event: control.LessonHost, LearntHost: &control.LearntHost{
				Host: host, Port: 443, Count: 1, First: noon, Last: noon, Listed: host == "www.bank.example"}})
		}
		f.lesson = append(f.lesson, control.Lesson{Event: control.LessonOver, Why: "its time is over"})
	})
	term := inTerminal(t, 80, 24, nil, "--socket="+b.socket, "learn", "banking")
	screen := term.Shows("Hosts that banking has reached", "[ ] cdn.bank.example", "[ ] *.bank.example")
	if strings.Contains(screen, "www.bank.example") {
		t.Errorf("a host on the list is proposed:\n%s", screen)
	}
	term.Type("a")
	term.Shows("[x] cdn.bank.example", "[x] img.bank.example", "[ ] *.bank.example")
	term.Type("Enter")
	term.Shows("+ img.bank.example", "Enter writes it")
	term.Answer("Enter", "Enter writes it")
	if status, screen := term.Ends(); status != 0 || !strings.Contains(screen, "in force after ") || !strings.Contains(screen, "its time is over") {
		t.Errorf("exit status %d\n%s", status, screen)
	}
	if content, _ := os.ReadFile(b.list); string(content) != "#: format domains\nwww.bank.example\ncdn.bank.example\nimg.bank.example\nshop.example:8443\n" {
		t.Errorf("the list is %s", content)
	}
}
