// Package picker is a screen on which a person ticks lines of a proposal and sees the list as it would be. It changes nothing: what was
// accepted is in [Model.Accepted].
//
// What is shown is the proposal of one moment. No row moves while a person looks.
//
// Concurrency: a [Model] is not for use by several goroutines at once.
package picker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vifproxy/internal/propose"
	"vifproxy/internal/screen"
	"vifproxy/internal/terminal"
)

// A Preview returns a list as it would be with more lines, and the lines of it that are new, as indexes.
type Preview func(accepted []propose.Line) (list []string, added []int, err error)

// A row is one row of the screen: a heading, a site or a line.
type row struct {
	text  string        // of a heading
	site  *propose.Site // of a site, and of its lines
	line  *propose.Line // nil in a heading and in the row of a site
	apart bool          // browsers ask for it by themselves
}

// A Model is what the screen shows, and where the person is.
type Model struct {
	title    string
	preview  Preview
	rows     []row
	ticked   map[*propose.Line]bool
	at       int // the marked row
	first    int // the row that is shown first
	height   int // of what is shown, as it was drawn last
	note     string
	list     []string // the preview; nil while lines are ticked
	added    []int
	line     int // of the preview that is shown first
	over, ok bool
}

// New returns a model in which nothing is ticked. title says whose proposal it is.
func New(title string, p propose.Proposal, preview Preview) *Model {
	m := &Model{title: title, preview: preview, ticked: map[*propose.Line]bool{}}
	add := func(sites []propose.Site, apart bool) {
		for i := range sites {
			s := &sites[i]
			m.rows = append(m.rows, row{site: s, apart: apart})
			for j := range s.Lines {
				m.rows = append(m.rows, row{site: s, line: &s.Lines[j], apart: apart})
			}
			if s.Wildcard != nil {
				m.rows = append(m.rows, row{site: s, line: s.Wildcard, apart: apart})
			}
		}
	}
	add(p.Sites, false)
	if len(p.Background) > 0 {
		m.rows = append(m.rows, row{text: "Browsers request these without a page:"})
		add(p.Background, true)
	}
	if n := len(p.LeftOut); n > 0 {
		m.rows = append(m.rows, row{text: fmt.Sprintf("%d not proposed: no list should have such names", n)})
	}
	m.at = m.next(-1, 1)
	return m
}

// Accepted returns the lines that the person has accepted, and whether there are any.
func (m *Model) Accepted() (lines []propose.Line, ok bool) {
	if !m.ok {
		return nil, false
	}
	return m.chosen(), true
}

// chosen returns the lines that are ticked, without those that a ticked wildcard covers.
func (m *Model) chosen() (lines []propose.Line) {
	for _, r := range m.rows {
		if r.line != nil && m.ticked[r.line] && !m.covered(r) {
			lines = append(lines, *r.line)
		}
	}
	return lines
}

// covered reports whether a row is one for which a ticked wildcard stands.
func (m *Model) covered(r row) bool {
	w := r.site.Wildcard
	return w != nil && r.line != w && m.ticked[w] && r.line.Host.Port == 0 && slices.Contains(w.Hosts, r.line.Host.Name)
}

// Over reports whether the person has done with it.
func (m *Model) Over() bool { return m.over }

// Asks reports whether the list is shown as it would be.
func (m *Model) Asks() bool { return m.list != nil }

// next returns the next row in a direction that can be marked, or the same one if there is none.
func (m *Model) next(from, by int) int {
	for i := from + by; 0 <= i && i < len(m.rows); i += by {
		if m.rows[i].site != nil {
			return i
		}
	}
	return from
}

// Key takes a key.
func (m *Model) Key(key string) {
	m.note = ""
	switch {
	case key == "ctrl+c":
		m.over = true
	case m.list != nil:
		m.previewKey(key)
	default:
		m.rowKey(key)
	}
}

func (m *Model) previewKey(key string) {
	switch key {
	case "enter":
		m.over, m.ok = true, true
	case "up", "down", "pgup", "pgdn", "home", "end":
		by := map[string]int{"up": -1, "down": 1, "pgup": -m.height, "pgdn": m.height, "home": -len(m.list), "end": len(m.list)}[key]
		m.line = screen.Window(m.line+by, -1, len(m.list), m.height)
	case "esc", "q":
		m.list = nil
	}
}

func (m *Model) rowKey(key string) {
	switch key {
	case "q", "esc":
		m.over = true
	case "up":
		m.at = m.next(m.at, -1)
	case "down":
		m.at = m.next(m.at, 1)
	case "pgup", "pgdn":
		by := map[string]int{"pgup": -1, "pgdn": 1}[key]
		for range max(m.height, 1) {
			m.at = m.next(m.at, by)
		}
	case "home":
		m.at = m.next(-1, 1)
	case "end":
		m.at = m.next(len(m.rows), -1)
	case " ":
		m.tick()
	case "a":
		for _, r := range m.rows {
			if r.line != nil && !r.apart && r.line != r.site.Wildcard && r.line.Beyond == "" {
				m.ticked[r.line] = true
			}
		}
	case "n":
		clear(m.ticked)
	case "enter":
		m.look()
	}
}

// tick ticks the marked line, or the lines of the marked site; if they are ticked, no more.
func (m *Model) tick() {
	if m.at < 0 || m.at >= len(m.rows) || m.rows[m.at].site == nil {
		return
	}
	switch r := m.rows[m.at]; {
	case r.line == nil:
		on := !m.siteTicked(r.site)
		for i := range r.site.Lines {
			m.ticked[&r.site.Lines[i]] = on && r.site.Lines[i].Beyond == ""
		}
	case r.line.Beyond != "":
		m.note = terminal.ASCII(r.line.Beyond)
	default:
		m.ticked[r.line] = !m.ticked[r.line]
	}
}

// siteTicked reports whether all lines of a site for one host are ticked that can be.
func (m *Model) siteTicked(s *propose.Site) (ticked bool) {
	for i := range s.Lines {
		if l := &s.Lines[i]; l.Beyond == "" && !m.ticked[l] {
			return false
		}
		ticked = ticked || m.ticked[&s.Lines[i]]
	}
	return ticked
}

// look shows the list as it would be, from a line from which the new ones are seen.
func (m *Model) look() {
	chosen := m.chosen()
	if len(chosen) == 0 {
		m.note = "nothing is ticked: Space ticks the marked line"
		return
	}
	list, added, err := m.preview(chosen)
	if err != nil {
		m.note = err.Error()
		return
	}
	m.list, m.added, m.line = append([]string{}, list...), added, len(list)
}

// Lines returns what a screen of this size shows.
func (m *Model) Lines(width, height int) []screen.Line {
	title, end := screen.Line{Text: m.title, Style: screen.Heading}, screen.Line{Style: screen.Faint}
	if m.list != nil {
		title.Text = "This is the list as it would be; + marks what is new."
	}
	lines := []screen.Line{title}
	if height < 6 {
		lines = nil
	}
	m.height = max(height-len(lines)-1, 1)
	if m.list != nil {
		m.line = screen.Window(m.line, -1, len(m.list), m.height)
		for i, text := range m.list[m.line:min(m.line+m.height, len(m.list))] {
			line := screen.Line{Text: "  " + terminal.ASCII(text)}
			if slices.Contains(m.added, m.line+i) {
				line = screen.Line{Text: "+ " + terminal.ASCII(text), Style: screen.Good}
			}
			lines = append(lines, line)
		}
		end = screen.Line{Text: "Enter writes it, Esc goes back", Style: screen.Heading}
	} else {
		m.first = screen.Window(m.first, m.at, len(m.rows), m.height)
		for i := m.first; i < min(m.first+m.height, len(m.rows)); i++ {
			lines = append(lines, m.rowLine(i, width))
		}
		end.Text = keyLine(width)
		if m.note != "" {
			end = screen.Line{Text: m.note, Style: screen.Warning}
		}
	}
	for len(lines) < height-1 {
		lines = append(lines, screen.Line{})
	}
	return append(lines, end)
}

// keyLine says what keys do, in as many words as fit.
func keyLine(width int) string {
	for _, text := range []string{"Space ticks  a ticks all  n none  Enter shows the list as it would be  q quits", "Space ticks  a all  n none  Enter goes on  q quits"} {
		if len(text) <= width {
			return text
		}
	}
	return "Space Enter q"
}

// rowLine returns a row as it is drawn.
func (m *Model) rowLine(i, width int) screen.Line {
	r := m.rows[i]
	if r.site == nil {
		return screen.Line{Text: r.text, Style: screen.Heading}
	}
	line := screen.Line{Text: "  " + m.rowText(r, width-2)}
	switch {
	case i == m.at:
		line = screen.Line{Text: "> " + line.Text[2:], Style: screen.Marked}
	case r.line == nil:
		line.Style = screen.Heading
	case m.covered(r) || r.line.Beyond != "" || r.apart && !m.ticked[r.line]:
		line.Style = screen.Faint
	case r.line == r.site.Wildcard:
		line.Style = screen.Warning
	}
	return line
}

// hostWidth is how many columns a line of a list has if there is a note behind it.
const hostWidth = 34

func (m *Model) rowText(r row, width int) string {
	box := func(on bool) string {
		if on {
			return "[x] "
		}
		return "[ ] "
	}
	if r.line == nil {
		return box(m.siteTicked(r.site)) + screen.FitHost(r.site.Name, width-4)
	}
	note := r.line.Also()
	switch {
	case r.line.Beyond != "":
		note = "no: " + terminal.ASCII(r.line.Beyond)
	case m.covered(r):
		note = "the wildcard stands for it"
	case r.line.For != "":
		note = terminal.ASCII(r.line.For)
	case r.line == r.site.Wildcard:
		note = "instead; " + note
	case note == "":
		note = strconv.Itoa(r.line.Count) + " times"
		if r.line.Count == 1 {
			note = "once"
		}
	}
	text := "  " + box(m.ticked[r.line] && !m.covered(r))
	if r.line.Beyond != "" {
		text = "   -  "
	}
	if width < hostWidth+20 {
		return text + screen.FitHost(r.line.Text, width-len(text))
	}
	return strings.TrimRight(text+screen.FitHost(r.line.Text, hostWidth)+"  "+screen.Fit(note, width-len(text)-hostWidth-2), " ")
}

var _ screen.Model = (*Model)(nil)
