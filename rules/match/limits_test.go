package match

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"vifproxy/rules"
	"vifproxy/rules/expression"
)

func TestWhatIsNotExact(t *testing.T) {
	extended := rules.Syntax{Language: expression.Extended, DefaultAllow: true}
	lines := []string{`^a$`, `(a)\1`, `b`, `x{255}{255}`, `a{2}{3}`}
	m := New(lines, extended)
	want := []Inexact{{1, `"(a)\1" refers back to what a parenthesis matched`}, {3, "it repeats too much, or the list is too long"}}
	if m.Exact() || fmt.Sprint(m.Inexact()) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", m.Inexact(), want)
	}
	if got := m.Lines("aaaaaab", 9); !slices.Equal(got, []int{2, 4}) {
		t.Errorf("lines beside those that are not exact: %v", got)
	}
	if m := New([]string{`^a$`}, extended); !m.Exact() || m.Inexact() != nil {
		t.Errorf("got %v", m.Inexact())
	}
}

// A list that is too long for the memory has lines that are not exact, and none that says something wrong.
func TestListsAreBounded(t *testing.T) {
	extended := rules.Syntax{Language: expression.Extended}
	lines := slices.Repeat([]string{`x{255}{16}`}, 1000)
	m := New(lines, extended)
	if len(m.steps) > stepsMax || m.Exact() {
		t.Errorf("%d steps, exact %v", len(m.steps), m.Exact())
	}
	if got := m.Lines(strings.Repeat("x", 255*16), 2); !slices.Equal(got, []int{0, 1}) {
		t.Errorf("got %v", got)
	}
	var varied []string
	for i := range 5000 {
		line := "["
		for bit := range 13 {
			if i>>bit&1 != 0 {
				line += string(rune('a' + bit))
			}
		}
		varied = append(varied, line+"z]")
	}
	m = New(varied, extended)
	if len(m.sets) != setsMax || len(m.Inexact()) != len(varied)-setsMax {
		t.Errorf("%d sets, %d lines are not exact", len(m.sets), len(m.Inexact()))
	}
}

// Whether tinyproxy lets a name pass depends on what its lines mean. A text that no request can contain passes never.
func TestPermits(t *testing.T) {
	for _, tt := range []struct {
		allow   bool
		text    string
		permits bool
		line    int
	}{
		{false, "a.example", true, 1}, {false, "b.example", false, -1},
		{true, "a.example", false, 1}, {true, "b.example", true, -1},
		{false, "a.example\n", false, -1}, {true, "b.example\x00", false, -1}, {true, "b\nb", false, -1},
	} {
		m := New([]string{`^x$`, `^a\.`}, rules.Syntax{DefaultAllow: tt.allow})
		if permits, line := m.Permits(tt.text); permits != tt.permits || line != tt.line {
			t.Errorf("%q under default allow %v: %v by %d", tt.text, tt.allow, permits, line)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	content := "#: format domains\n"
	for i := range 500 {
		content += fmt.Sprintf("host%d.bank.example\n*.site%d.example\n", i, i)
	}
	f, err := rules.ParseFile("/rules/social.10.137.2.13", []byte(content))
	if err != nil {
		b.Fatal(err)
	}
	compiled, err := f.Lines(rules.Syntax{})
	if err != nil {
		b.Fatal(err)
	}
	var lines []string
	for _, l := range compiled {
		lines = append(lines, l.Text)
	}
	s := rules.Syntax{}.Compiled()
	b.Run("New1000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			New(lines, s)
		}
	})
	m := New(lines, s)
	for _, name := range []string{"other.example.net", "www.site499.example"} {
		b.Run("1000lines/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Match(name)
			}
		})
	}
}
