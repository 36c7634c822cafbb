package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/await"
	"vifproxy/internal/display"
	"vifproxy/internal/events"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// A usual table, and what is said below it, fit on a terminal of 80 columns, and each thing is said once.
func TestShowFitsOnATerminal(t *testing.T) {
	const columns = 80
	text := "/rw/config/tinyproxy/config:3: tinyproxy does not understand \"Timout 600\" (see tinyproxy.conf(5) of the installed version)"
	vms := []control.VM{
		{Name: "banking", IP: "10.137.0.111", State: control.Running, Interfaces: []string{"vif117.0"}, Since: time.Now(), Error: text},
		{Name: "disp1234-a-long-name", IP: "10.138.111.222", State: control.Refused, Interfaces: []string{"vif1234.0"}, Error: text},
	}
	var lines []string
	for _, line := range display.Remarks(vms, func(control.VM) bool { return true }) {
		lines = append(lines, usage.Wrap(line, columns, 4))
	}
	shown := display.Table(vms) + strings.Join(lines, "")
	for line := range strings.Lines(shown) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if n := strings.Count(strings.Join(strings.Fields(shown), " "), text); n != 1 {
		t.Errorf("it is said %d times:\n%s", n, shown)
	}
}

func TestDeniedFitsOnATerminal(t *testing.T) {
	now := time.Date(2026, 11, 29, 17, 0, 0, 0, time.Local)
	text := display.DeniedTable([]events.Denied{{VM: "disp1234", Hosts: []events.DeniedHost{
		{Host: "fonts.static.example.com", Count: 12345, First: now.Add(-25 * time.Hour), Last: now.Add(-time.Minute), Port: 8443, Reason: events.ReasonList}}}},
		func(t time.Time) string { return display.ShortTime(t, now) })
	for line := range strings.Lines(text) {
		if n := len(line) - 1; n > usage.Width {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if !strings.Contains(text, "Nov 28 16:00  16:59:00") {
		t.Errorf("yesterday and today:\n%s", text)
	}
}

// newTerminal returns a real one of 80 columns, and what it was told.
func newTerminal(t *testing.T) (tty *os.File, told func() string) {
	t.Helper()
	keeper, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { keeper.Close() })
	number, err := unix.IoctlGetInt(int(keeper.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(keeper.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(keeper.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80})
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&text, keeper) // ends with EIO when nobody has the terminal open
	}()
	return tty, func() string {
		tty.Close()
		await.Value(t, "the end of what the terminal is told", read)
		return strings.ReplaceAll(text.String(), "\r\n", "\n")
	}
}

// What check, explain and errors say is wrapped where a terminal shows it, and nowhere else.
func TestMessagesFitOnATerminal(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("rules", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"banking.10.137.0.11": "bank.example\n*.bank.example\nhttps://pay.example/\n",
		"work.10.137.0.12": "#: format domains\nhttps://bank.example:8443/login\n.bank.example\n", "mail": "", "social": ""} {
		if err := os.WriteFile("rules/"+name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	explained := control.Explanation{VM: "banking", Request: "CONNECT bank.example:8443", Verdict: control.IsRefused, Steps: []control.Step{
		{Guard: "rules", Says: "permitted by", Lines: []control.Line{{Path: "/rw/config/tinyproxy/banking.10.137.0.11", Line: 2, Text: "bank.example # the bank itself"}}},
		{Guard: "fence", Says: "198.51.100.3 is refused: port 8443 is not open (the line `bank.example:8443` in the rule file opens it)"}}}
	for what, show := range map[string]func(io.Writer){
		"check": func(w io.Writer) {
			env{stdout: w, stderr: w}.run([]string{"--rules-dir=rules", "--socket=none", "check"})
		},
		"error": func(w io.Writer) {
			env{stdout: w, stderr: w}.run([]string{"--socket=" + strings.Repeat("none/", 9), "show"})
		},
		"explain": func(w io.Writer) { _ = say(w, "%s", display.Explanation(explained, terminal.Width(w))) },
	} {
		tty, told := newTerminal(t)
		show(tty)
		shown := told()
		for line := range strings.Lines(shown) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > usage.Width {
				t.Errorf("%s: %d columns: %s", what, n, line)
			}
		}
		var plain strings.Builder
		show(&plain)
		if got, want := strings.Fields(shown), strings.Fields(plain.String()); !slices.Equal(got, want) {
			t.Errorf("%s on a terminal says\n%swithout one\n%s", what, shown, &plain)
		}
	}
}

func TestHelpFitsOnATerminal(t *testing.T) {
	for _, v := range append(verbs(), verb{}) {
		var text strings.Builder
		c := &call{env: env{stdout: &text}}
		if v.name != "" {
			c.args = []string{v.name}
		}
		if err := runHelp(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > usage.Width {
				t.Errorf("help %s: %d columns: %s", v.name, n, line)
			}
		}
	}
}

// A mistake in the template is said once, though each proxy that it keeps from starting reports it.
func TestAMistakeInTheTemplateIsOneRemark(t *testing.T) {
	const mistake = `/rw/config/tinyproxy/config:31: tinyproxy does not understand "Timout …"`
	vms := []control.VM{
		{Name: "bank", IP: "10.137.0.11", State: control.Failed, Error: "start proxy for bank (10.137.0.11): " + mistake},
		{Name: "mail", IP: "10.137.0.12", State: control.Failed, Error: "start proxy for mail (10.137.0.12): " + mistake},
	}
	got := display.Remarks(vms, func(control.VM) bool { return true })
	if want := []string{"bank (10.137.0.11), mail (10.137.0.12): " + mistake}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
