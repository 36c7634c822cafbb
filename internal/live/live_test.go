package live

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/screen"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// refused returns hosts that were refused, the first one newest.
func refused(hosts ...string) []events.Denied {
	d := events.Denied{VM: "bank", IP: "10.137.23.2"}
	for i, host := range hosts {
		at := noon.Add(-time.Duration(i) * time.Second)
		d.Hosts = append(d.Hosts, events.DeniedHost{Host: host, Port: 443, Reason: events.ReasonList, Count: 1, First: at, Last: at})
	}
	return []events.Denied{d}
}

func state(denied []events.Denied) State {
	return State{VMs: []control.VM{{Name: "bank", IP: "10.137.23.2", State: control.Running, Interfaces: []string{"vif7.0"}}}, Denied: denied}
}

// A desk is a model, what it ran, and its screen.
type desk struct {
	*Model
	ran []Command
}

func newDesk(s State) *desk {
	d := &desk{}
	d.Model = New(func(c Command) { d.ran = append(d.ran, c) })
	d.Set(s)
	return d
}

// looks returns the screen.
func (d *desk) looks(width, height int) string {
	var b strings.Builder
	for _, line := range d.Lines(width, height) {
		b.WriteString(line.Text + "\n")
	}
	return b.String()
}

// types presses keys, and draws after each as package screen does.
func (d *desk) types(keys ...string) {
	d.looks(80, 24)
	for _, key := range keys {
		d.Key(key)
		d.looks(80, 24)
	}
}

// marked returns the host of the marked row on the screen; "" if none is marked.
func (d *desk) markedHost() string {
	for _, line := range d.Lines(80, 24) {
		if line.Style == screen.Marked {
			return strings.Fields(line.Text)[3]
		}
	}
	return ""
}

// A lesson is seen while it lasts, and so is its end.
func TestALesson(t *testing.T) {
	learns := state(nil)
	learns.VMs[0].Learning = noon
	d := newDesk(learns)
	if screen := d.looks(80, 24); !strings.Contains(screen, "1 running; bank learns until "+noon.Local().Format(time.TimeOnly)) ||
		!strings.Contains(screen, " learns   vif7.0") {
		t.Errorf("it learns:\n%s", screen)
	}
	d.Set(state(nil))
	if screen := d.looks(80, 24); strings.Contains(screen, "learns until") || !strings.Contains(screen, "bank learns no more: its list is in force again") || !strings.Contains(screen, " running  vif7.0") {
		t.Errorf("it has learnt:\n%s", screen)
	}
	d.types("down")
	if screen := d.looks(80, 24); strings.Contains(screen, "learns") {
		t.Errorf("after the next key:\n%s", screen)
	}
}

// A flood of refusals moves nothing below the mark: the host that is allowed is the one that was marked.
func TestAFloodDoesNotMoveTheMark(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		hosts := []string{"a.example", "b.example", "c.example", "d.example"}
		d := newDesk(state(refused(hosts...)))
		flood := func() {
			for range random.IntN(300) {
				hosts = append([]string{fmt.Sprintf("evil%d.example", random.IntN(1000))}, hosts...)
			}
			random.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
			d.Set(state(refused(hosts[:min(len(hosts), 256)]...))) // the marked one may have been pushed off the list
		}
		d.types("down")
		at := 0
		for range random.IntN(6) {
			if before := d.markedHost(); before != []string{"a.example", "b.example", "c.example", "d.example"}[at] {
				t.Fatalf("marked is %q", before)
			}
			flood()
			if key := []string{"down", "up", "none"}[random.IntN(3)]; key == "down" {
				at = min(at+1, 3)
				d.types(key)
			} else if key == "up" {
				at = max(at-1, 0)
				d.types(key)
			}
		}
		want := []string{"a.example", "b.example", "c.example", "d.example"}[at]
		flood()
		key := []string{"a", "A"}[random.IntN(2)]
		d.types(key)
		flood()
		if key == "A" {
			d.Finished(d.ran[0], "would be added", false)
		}
		if screen := d.looks(80, 24); !strings.Contains(screen, "vifproxyctl allow bank "+want) {
			t.Fatalf("%s is marked, and the question is\n%s", want, screen)
		}
		flood()
		d.types("y")
		if last := d.ran[len(d.ran)-1]; last.Host != want || last.VM != "bank" || last.Try {
			t.Fatalf("%s was marked, and allowed is %v", want, last)
		}
	}
}

// No key does anything to a host that no person has marked, and a list that goes on again has no mark.
func TestNothingIsMarkedByItself(t *testing.T) {
	d := newDesk(state(refused("a.example")))
	d.types("a", "A", "e", "y", "enter", " ", "h")
	d.types("down", "r", "a", "A", "e", "y")
	d.types("down", "esc", "A", "y")
	if len(d.ran) > 0 || d.Asks() || d.Over() {
		t.Errorf("%v was run; it asks: %v; it is over: %v", d.ran, d.Asks(), d.Over())
	}
	if screen := d.looks(80, 24); !strings.Contains(screen, "mark") && !strings.Contains(screen, "10 min") {
		t.Error(screen)
	}
}

// A question is answered by y alone, and what was asked about is what is done.
func TestQuestions(t *testing.T) {
	for _, key := range []string{"n", "enter", "esc", "q", " ", "a", "Y", "tab", "r"} {
		d := newDesk(state(refused("a.example")))
		d.types("down", "a", key)
		if len(d.ran) > 0 || d.Asks() {
			t.Errorf("%q: %v was run", key, d.ran)
		}
		d.types("A")
		if len(d.ran) != 1 || !d.ran[0].Try {
			t.Fatalf("%v was run", d.ran)
		}
		d.types("y") // nothing is asked yet
		d.Finished(Command{Verb: "allow", VM: "bank", Host: "b.example", Try: true}, "of another one", false)
		if len(d.ran) > 1 || d.Asks() {
			t.Errorf("before the question: %v was run", d.ran)
		}
		d.Finished(d.ran[0], "no such file", true)
		d.types("y")
		if len(d.ran) > 1 || !strings.Contains(d.looks(80, 24), "A for good") {
			t.Errorf("after a failure: %v was run\n%s", d.ran, d.looks(80, 24))
		}
	}
}

func TestHold(t *testing.T) {
	s := state(nil)
	s.VMs = append(s.VMs, control.VM{Name: "mail", IP: "10.137.23.3", State: control.Stopped})
	d := newDesk(s)
	d.types("tab", "down", "h", "y")
	d.Finished(d.ran[0], "", false)
	d.types("esc", "down", "h", "y")
	if want := []Command{{Verb: "stop", VM: "bank"}, {Verb: "start", VM: "mail"}}; !slices.Equal(d.ran, want) {
		t.Errorf("%v was run, want %v", d.ran, want)
	}
	d.Finished(d.ran[1], "", false)
	d.types("esc")
	d.Set(state(nil)) // mail has gone
	d.types("h", "y")
	if len(d.ran) != 2 {
		t.Errorf("%v was run on an AppVM that has gone", d.ran)
	}
}

func TestWhatMayBeAllowed(t *testing.T) {
	for _, tt := range []struct {
		host   string
		port   uint16
		reason events.Reason
		want   string // "" if it may not
	}{
		{"bank.example", 443, events.ReasonList, "bank.example"},
		{"bank.example", 80, events.ReasonList, "bank.example"},
		{"Bank.Example.", 8443, events.ReasonList, "bank.example:8443"},
		{"bank.example", 443, events.ReasonPort, "bank.example:443"},
		{"bank.example", 80, events.ReasonPort, "ws://bank.example/"},
		{"http://bank.example:81/x?y", 81, events.ReasonList, "bank.example:81"},
		{"b\u00fccher.example", 443, events.ReasonList, "xn--bcher-kva.example"},
		{"bank.example", 443, events.ReasonConnect, ""},
		{"bank.example", 0, events.ReasonFull, ""},
		{"", 0, events.ReasonList, ""},
		{"*.example", 443, events.ReasonList, ""},
		{"--force", 443, events.ReasonList, ""},
		{"10.0.0.0/8", 443, events.ReasonList, ""},
		{"\x1b[2Jbank.example", 443, events.ReasonList, ""},
		{"bank.example evil.example", 443, events.ReasonList, ""},
	} {
		r := row{vm: "bank", DeniedHost: events.DeniedHost{Host: tt.host, Port: tt.port, Reason: tt.reason}}
		if got, why := hostOf(r); got != tt.want || (got == "") != (why != "") {
			t.Errorf("%q at %d, %s: %q, %q, want %q", tt.host, tt.port, tt.reason, got, why, tt.want)
		}
	}
}

// Whatever AppVMs send, and however small the screen is, each row stays in its place and the end of a host is seen.
func TestEverySize(t *testing.T) {
	hostile := []string{"\x1b[2J\x1b]0;evil\a", strings.Repeat("a.", 120) + "evil.example", "bank.example  443 list", "\u202e\u0301漢字.example", "\xff\xfe", "a\nb"}
	s := state(refused(hostile...))
	s.Denied[0].Hosts[0].Why, s.Denied[0].Hosts[0].Reason = "\x1b[31m", events.ReasonName
	s.VMs[0].Error = "\x1b[2J"
	s.VMs = append(s.VMs, control.VM{Name: "a-name-of-31-characters-at-most", State: "\x1b[2J"})
	d := newDesk(s)
	for _, width := range []int{0, 1, 2, 3, 10, 20, 40, 59, 60, 80, 200} {
		for _, height := range []int{0, 1, 2, 3, 5, 8, 9, 10, 24, 60} {
			for _, keys := range [][]string{{}, {"down"}, {"tab"}, {"?"}, {"esc", "r", "down", "a"}, {"esc"}} {
				for _, key := range keys {
					d.Key(key)
				}
				lines := d.Lines(width, height)
				if len(lines) > max(height, 1) {
					t.Fatalf("%dx%d has %d lines", width, height, len(lines))
				}
			}
			d.Key("esc")
		}
	}
	if got := screen.FitHost(hostile[1], 20); !strings.HasSuffix(got, "evil.example") || len(got) != 20 {
		t.Errorf("%q", got)
	}
	if got := screen.Word(hostile[2]); strings.Contains(got, " ") {
		t.Errorf("%q is two columns", got)
	}
}

func TestRates(t *testing.T) {
	vms := []control.VM{{Name: "bank", Interfaces: []string{"vif7.0", "vif8.0"}}, {Name: "mail", Interfaces: []string{"vif9.0"}}, {Name: "work"}}
	var m Meter
	for i, tt := range []struct {
		links map[string]Counters
		want  string
	}{
		{map[string]Counters{"vif7.0": {100, 10}, "vif8.0": {100, 10}, "eth0": {9, 9}}, "map[]"},
		{map[string]Counters{"vif7.0": {300, 10}, "vif8.0": {400, 30}, "vif9.0": {5, 5}}, "map[bank:{250 10}]"},
		{map[string]Counters{"vif7.0": {0, 0}, "vif9.0": {5, 25}}, "map[mail:{0 10}]"}, // vif7.0 is a new one
		{nil, "map[]"},
	} {
		if got := fmt.Sprint(m.Rates(vms, tt.links, noon.Add(time.Duration(2*i)*time.Second))); got != tt.want {
			t.Errorf("%d: %s, want %s", i, got, tt.want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 12345: "12 kB", 999_600: "1.0 MB", 1 << 63: "9.2 EB", 9_990: "10.0 kB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
