package picker

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"vifproxy/internal/propose"
	"vifproxy/internal/screen"
	"vifproxy/rules"
)

// proposal returns a proposal for a list of names that has nothing yet.
func proposal(t *testing.T, hosts ...string) propose.Proposal {
	t.Helper()
	file, err := rules.ParseFile("bank.10.137.23.2", []byte("#: format domains\n"))
	if err != nil {
		t.Fatal(err)
	}
	var asked []propose.Host
	for _, word := range hosts {
		name, purpose, _ := strings.Cut(word, "=")
		asked = append(asked, propose.Host{Name: name, Count: 1, Browser: purpose})
	}
	return propose.Of(propose.List{File: file}, asked)
}

func texts(lines []propose.Line) string {
	var all []string
	for _, l := range lines {
		all = append(all, l.Text)
	}
	return strings.Join(all, " ")
}

// preview shows the accepted lines alone.
func preview(accepted []propose.Line) (list []string, added []int, err error) {
	return strings.Fields(texts(accepted)), nil, nil
}

// Keys tick what they say, and only Enter on the list as it would be accepts it.
func TestTicks(t *testing.T) {
	for keys, want := range map[string]string{
		"":                               "",
		"enter enter":                    "",
		"a":                              "",
		"a enter":                        "",
		"a enter esc q":                  "",
		"a enter ctrl+c":                 "",
		"a enter enter":                  "a.bank.example b.bank.example shop.example",
		"a n enter enter":                "",
		"_ enter enter":                  "a.bank.example b.bank.example",
		"_ _ enter enter":                "",
		"down _ enter enter":             "a.bank.example",
		"down down down _ a enter enter": "*.bank.example shop.example", // the wildcard stands for both
		"end _ enter enter":              "moz.example",
		"end up up up _ enter enter":     "shop.example",
		"pgdn _ enter y enter":           "moz.example",
		"end pgup up home down _ enter down up end enter": "a.bank.example",
	} {
		m := New("title", proposal(t, "a.bank.example", "b.bank.example", "shop.example", "moz.example=updates", "\x1b[2J"), preview)
		m.Lines(80, 24)
		for key := range strings.FieldsSeq(keys) {
			m.Key(strings.ReplaceAll(key, "_", " "))
			m.Lines(80, 24)
		}
		lines, ok := m.Accepted()
		if got := texts(lines); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v, want %q", keys, got, ok, want)
		}
	}
}

// The picker shows a line that a ceiling does not admit with the reason, and no key ticks it.
func TestBeyondACeiling(t *testing.T) {
	for keys, want := range map[string]string{
		"a enter enter": "b.bank.example", "_ enter enter": "b.bank.example", "down _ enter enter": "", "_ _ enter enter": "",
		"down down down _ enter enter": "", "end _ enter enter": "",
	} {
		p := proposal(t, "a.bank.example", "b.bank.example", "shop.example")
		for _, line := range []*propose.Line{&p.Sites[0].Lines[0], p.Sites[0].Wildcard, &p.Sites[1].Lines[0]} {
			line.Beyond = line.Text + " is beyond the ceiling \x1b[2J"
		}
		m := New("title", p, preview)
		for key := range strings.FieldsSeq(keys) {
			m.Key(strings.ReplaceAll(key, "_", " "))
		}
		lines, ok := m.Accepted()
		if got := texts(lines); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v, want %q", keys, got, ok, want)
		}
		m = New("title", p, preview)
		m.Key("down")
		m.Key(" ")
		var drawn strings.Builder
		for _, line := range m.Lines(120, 24) {
			fmt.Fprintln(&drawn, strings.TrimRight(line.Text, " "))
		}
		for _, row := range []string{`>    -  a.bank.example                      no: a.bank.example is beyond the ceiling \x1b[2J`, "  -  shop.example ", "\na.bank.example is beyond the ceiling "} {
			if !strings.Contains(drawn.String(), row) {
				t.Errorf("%q is not in\n%s", row, &drawn)
			}
		}
	}
}

func TestAPreviewThatFails(t *testing.T) {
	m := New("title", proposal(t, "a.example"), func([]propose.Line) ([]string, []int, error) { return nil, nil, errors.New("no such file") })
	for _, key := range []string{"a", "enter", "enter"} {
		m.Key(key)
	}
	lines := m.Lines(80, 24)
	if _, ok := m.Accepted(); ok || lines[len(lines)-1] != (screen.Line{Text: "no such file", Style: screen.Warning}) {
		t.Errorf("accepted: %v; the last line is %v", ok, lines[len(lines)-1])
	}
}

// However small the screen is, the marked row is on it.
func TestEverySize(t *testing.T) {
	var hosts []string
	for i := range 60 {
		hosts = append(hosts, fmt.Sprintf("a%d.bank.example", i), fmt.Sprintf("%s.site%d.example", strings.Repeat("long.", 20), i))
	}
	p := proposal(t, hosts...)
	for _, width := range []int{0, 1, 3, 10, 20, 40, 80, 200} {
		for _, height := range []int{2, 3, 5, 6, 24, 60} {
			m := New("title", p, preview)
			for _, key := range []string{"home", "pgdn", "down", "a", "end", "up", "pgup", "enter", "up", "pgup", "end", "down"} {
				m.Key(key)
				marked := 0
				lines := m.Lines(width, height)
				for _, line := range lines {
					if line.Style == screen.Marked {
						marked++
					}
				}
				if want := map[bool]int{true: 0, false: 1}[m.Asks()]; len(lines) != height || marked != want {
					t.Fatalf("%dx%d after %s: %d lines, %d marked", width, height, key, len(lines), marked)
				}
			}
		}
	}
}
