package live

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/screen"
	"vifproxy/internal/usage"
)

// Lines returns what a screen of this size shows.
func (m *Model) Lines(width, height int) []screen.Line {
	switch m.page {
	case running:
		return append(m.header(width), screen.Line{}, screen.Line{Text: m.command.String()}, screen.Line{}, screen.Line{Text: "vifproxyd is asked ..."})
	case question:
		body := append(screen.Wrapped(m.command.String()+"\n\n", width), screen.Wrapped(m.text, width)...)
		return m.textPage(width, height, body, screen.Line{Text: "y does it, Esc does not", Style: screen.Heading})
	case result:
		body := append(screen.Wrapped(m.command.String()+"\n\n", width), screen.Wrapped(m.text, width)...)
		end := screen.Line{Text: "done; Esc goes back", Style: screen.Good}
		if m.command.Verb == "explain" {
			end = screen.Line{Text: "Esc goes back", Style: screen.Heading}
		} else if m.failed {
			end = screen.Line{Text: "this did not work; Esc goes back", Style: screen.Bad}
		}
		return m.textPage(width, height, body, end)
	case help:
		rows := [][]string{}
		for _, k := range screenKeys {
			rows = append(rows, []string{k.key, k.long})
		}
		rows = append(rows, []string{"arrows", "mark a row; so do PgUp, PgDn, Home and End"})
		return m.textPage(width, height, screen.Wrapped(usage.Aligned(rows), width), screen.Line{Text: "Esc goes back", Style: screen.Heading})
	}
	return m.listPage(width, height)
}

// textPage returns a text, from the line to which the person has scrolled, between the first and the last line of the screen.
func (m *Model) textPage(width, height int, body []screen.Line, end screen.Line) []screen.Line {
	header := m.header(width)
	if height < 8 {
		header = nil
	}
	if height < 2 {
		return []screen.Line{end}
	}
	room := height - len(header) - 1
	m.height, m.lines = room, len(body)
	m.line = screen.Window(m.line, -1, len(body), room)
	if len(body) > room {
		end.Text += fmt.Sprintf(" (%d-%d of %d lines)", m.line+1, m.line+room, len(body))
	}
	body = body[m.line:min(m.line+room, len(body))]
	lines := append(header, body...)
	for len(lines) < height-1 {
		lines = append(lines, screen.Line{})
	}
	return append(lines, end)
}

// header returns the line that says how things are as a whole.
func (m *Model) header(int) []screen.Line {
	switch {
	case m.trouble != "":
		return []screen.Line{{Text: m.trouble, Style: screen.Bad}}
	case !m.known:
		return []screen.Line{{Text: "vifproxyd is asked ...", Style: screen.Heading}}
	}
	counts := map[string]int{}
	for _, vm := range m.state.VMs {
		counts[vm.State]++
	}
	text := fmt.Sprintf("AppVMs with a list: %d", len(m.state.VMs))
	for _, state := range control.States {
		if counts[state] > 0 {
			text += fmt.Sprintf(", %d %s", counts[state], state)
		}
	}
	for _, vm := range m.state.VMs {
		if !vm.Learning.IsZero() {
			text += fmt.Sprintf("; %s learns until %s", screen.Word(vm.Name), vm.Learning.Local().Format(time.TimeOnly))
		}
	}
	return []screen.Line{{Text: text, Style: screen.Heading}}
}

// listPage returns both lists, or on a small screen the one where the person is.
func (m *Model) listPage(width, height int) []screen.Line {
	lines := m.header(width)
	end := screen.Line{Text: keyLine(width), Style: screen.Faint}
	if m.note != "" {
		end = screen.Line{Text: m.note, Style: screen.Warning}
	}
	room := height - len(lines) - 1
	switch {
	case room < 1:
		return lines[:max(min(height, 1), 0)]
	case room < 8 && m.pane == vms:
		lines = append(lines, m.vmPane(width, room)...)
	case room < 8:
		lines = append(lines, m.refusalPane(width, room)...)
	default:
		top := min(len(m.state.VMs)+1, room/2)
		lines = append(lines, m.vmPane(width, top)...)
		lines = append(lines, screen.Line{})
		lines = append(lines, m.refusalPane(width, room-top-1)...)
	}
	for len(lines) < height-1 {
		lines = append(lines, screen.Line{})
	}
	return append(lines, end)
}

// keyLine returns as many of the keys as fit, and always the last ones: help and quit.
func keyLine(width int) string {
	word := func(i int) string { return screenKeys[i].key + " " + screenKeys[i].short }
	last := len(screenKeys) - 2
	end, text := word(last)+"  "+word(last+1), ""
	for i := range last {
		if next := text + word(i) + "  "; len(next+end) <= width {
			text = next
		}
	}
	return text + end
}

// A column is one of a table. It is left out where the screen is narrower than from columns.
type column struct {
	title       string
	width, from int
	right       bool
}

// tableLine returns cells as a line. The column of width 0 gets what the others leave.
func tableLine(columns []column, cells []string, width int) string {
	left := width - 2
	for _, c := range columns {
		if width >= c.from {
			left -= c.width + 1
		}
	}
	var words []string
	for i, c := range columns {
		switch cell := cells[i]; {
		case width < c.from:
		case c.width == 0 && c.title == "HOST":
			words = append(words, screen.FitHost(cell, max(left+1, 1)))
		case c.width == 0:
			words = append(words, screen.Fit(cell, max(left+1, 1)))
		case c.right:
			words = append(words, fmt.Sprintf("%*s", c.width, screen.Fit(cell, min(len(cell), c.width))))
		default:
			words = append(words, screen.Fit(cell, c.width))
		}
	}
	return strings.TrimRight(strings.Join(words, " "), " ")
}

func titles(columns []column) (all []string) {
	for _, c := range columns {
		all = append(all, c.title)
	}
	return all
}

var vmColumns = []column{{"NAME", 0, 0, false}, {"STATE", 8, 0, false}, {"VIF", 9, 50, false}, {"DOWN/s", 8, 40, true}, {"UP/s", 8, 60, true}, {"REFUSED", 7, 60, true}}

// vmPane returns the list of AppVMs in height lines.
func (m *Model) vmPane(width, height int) []screen.Line {
	lines := []screen.Line{{Text: "  " + tableLine(vmColumns, titles(vmColumns), width), Style: paneStyle(m.pane == vms)}}
	all := m.state.VMs
	at := slices.IndexFunc(all, func(vm control.VM) bool { return vm.Name == m.vm })
	if m.pane == vms {
		m.height = height - 1
	}
	m.first[vms] = screen.Window(m.first[vms], at, len(all), height-1)
	for i, vm := range all[m.first[vms]:] {
		if i == height-1 {
			break
		}
		down, up := "--", "--"
		if rate, ok := m.state.Traffic[vm.Name]; ok {
			down, up = bytesText(rate.Down), bytesText(rate.Up)
		}
		state := vm.State
		if !vm.Learning.IsZero() {
			state = "learns"
		}
		cells := []string{screen.Word(vm.Name), state, orNone(strings.Join(vm.Interfaces, ",")), down, up, strconv.Itoa(m.refused(vm))}
		line := screen.Line{Text: "  " + tableLine(vmColumns, cells, width)}
		switch {
		case m.pane == vms && m.first[vms]+i == at:
			line = screen.Line{Text: "> " + line.Text[2:], Style: screen.Marked}
		case vm.InTrouble():
			line.Style = screen.Bad
		case !vm.Learning.IsZero():
			line.Style = screen.Warning
		case vm.State != control.Running:
			line.Style = screen.Faint
		}
		lines = append(lines, line)
	}
	return lines
}

// refused returns how many requests of an AppVM were refused or failed.
func (m *Model) refused(vm control.VM) (count int) {
	for _, d := range m.state.Denied {
		if d.VM != vm.Name || d.IP != vm.IP {
			continue
		}
		count += d.Forgotten
		for _, h := range d.Hosts {
			count += h.Count
		}
	}
	return count
}

var refusalColumns = []column{{"TIME", 8, 60, false}, {"VM", 12, 45, false}, {"HOST", 0, 0, false}, {"PORT", 5, 30, true}, {"REASON", 22, 72, false}}

// refusalPane returns the list of what was refused in height lines.
func (m *Model) refusalPane(width, height int) []screen.Line {
	rows := m.stands
	if rows == nil {
		rows = m.rows()
	}
	at := -1
	if m.marked != nil {
		at = slices.IndexFunc(rows, m.marked.same)
	}
	if m.pane == refusals {
		m.height = height - 1
	}
	m.first[refusals] = screen.Window(m.first[refusals], at, len(rows), height-1)
	title := tableLine(refusalColumns, titles(refusalColumns), width)
	if m.stands != nil {
		title = "This list stands still"
		if newer := m.newer(); newer > 0 {
			title += fmt.Sprintf("; %d newer", newer)
		}
		title += ": r lets it go on"
	}
	lines := []screen.Line{{Text: "  " + title, Style: paneStyle(m.pane == refusals)}}
	if m.stands == nil {
		m.shown = rows[m.first[refusals]:]
	}
	for i, r := range rows[m.first[refusals]:] {
		if i == height-1 {
			break
		}
		line := screen.Line{Text: "  " + tableLine(refusalColumns, cellsOf(r), width)}
		switch {
		case m.pane == refusals && m.first[refusals]+i == at:
			line = screen.Line{Text: "> " + line.Text[2:], Style: screen.Marked}
		case r.Browser != "":
			line.Style = screen.Faint
		}
		lines = append(lines, line)
	}
	if len(rows) == 0 && m.known {
		lines = append(lines, screen.Line{Text: "  nothing was refused since vifproxyd started", Style: screen.Faint})
	}
	return lines
}

// cellsOf returns a refusal as the list shows it.
func cellsOf(r row) []string {
	port := ""
	if r.Port != 0 {
		port = strconv.Itoa(int(r.Port))
	}
	reason := string(r.Reason)
	switch {
	case r.Browser != "":
		reason += ", by itself"
	case r.Why != "" && r.Reason != events.ReasonList:
		reason += ": " + r.Why
	}
	return []string{r.Last.Local().Format(time.TimeOnly), screen.Word(r.vm), orNone(r.Host), orNone(port), reason}
}

func paneStyle(here bool) screen.Style {
	if here {
		return screen.Heading
	}
	return screen.Faint
}

func orNone(text string) string {
	if text == "" {
		return "--"
	}
	return text
}

// bytesText returns a number of bytes for people, in at most 8 columns.
func bytesText(n uint64) string {
	value, units := float64(n), []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	for value >= 999.5 && len(units) > 1 {
		value, units = value/1000, units[1:]
	}
	if value < 10 && units[0] != "B" {
		return fmt.Sprintf("%.1f %s", value, units[0])
	}
	return fmt.Sprintf("%.0f %s", value, units[0])
}
