package live

import (
	"fmt"
	"slices"

	"vifproxy/control"
	"vifproxy/rules"
)

// Key takes a key. It does nothing if it has no meaning where the person is.
func (m *Model) Key(key string) {
	m.note = ""
	switch {
	case key == "ctrl+c":
		m.over = true
	case m.page == lists:
		m.listKey(key)
	case m.page == question && key == "y":
		c := m.command
		c.Try = false
		m.begin(c)
	case m.scrolls(key):
	case m.page == running && key != "esc" && key != "q": // a command goes on although nobody waits for it
	default:
		m.page = lists
	}
}

// scrolls moves a text that does not fit on the screen.
func (m *Model) scrolls(key string) bool {
	by, ok := map[string]int{"up": -1, "down": 1, "pgup": -m.height, "pgdn": m.height, " ": m.height, "home": -m.lines, "end": m.lines}[key]
	if m.page == running || !ok || key == " " && m.page == question {
		return false
	}
	m.line = max(min(m.line+by, m.lines-m.height), 0)
	return true
}

func (m *Model) listKey(key string) {
	switch key {
	case "q":
		m.over = true
	case "?":
		m.page, m.line = help, 0
	case "tab":
		m.pane = vms + refusals - m.pane
	case "r", "esc":
		m.stands, m.marked, m.vm, m.first = nil, nil, "", [2]int{}
	case "up", "down", "pgup", "pgdn", "home", "end":
		if m.pane == refusals {
			m.moveRefusal(key)
		} else {
			m.moveVM(key)
		}
	case "a", "A", "e":
		m.onRefusal(key)
	case "h":
		m.hold()
	}
}

// moved returns where a key moves the mark among count rows, of which a page shows height. at is -1 if none is marked.
func moved(key string, at, count, height int) int {
	switch key {
	case "home":
		at = 0
	case "end":
		at = count - 1
	case "up", "pgup":
		at -= map[string]int{"up": 1, "pgup": height}[key]
	case "down", "pgdn":
		at += map[string]int{"down": 1, "pgdn": height}[key]
	}
	return max(min(at, count-1), 0)
}

// moveRefusal moves the mark. If the list goes on, it stands still from now on as the person saw it last.
func (m *Model) moveRefusal(key string) {
	if m.stands == nil {
		m.stands = m.shown
	}
	if len(m.stands) == 0 {
		m.stands = nil
		return
	}
	at := -1
	if m.marked != nil {
		at = slices.IndexFunc(m.stands, m.marked.same)
	}
	if at < 0 && (key == "down" || key == "up") {
		key = "home"
	}
	chosen := m.stands[moved(key, at, len(m.stands), max(m.height, 1))]
	m.marked = &chosen
}

// moveVM moves the mark from one AppVM to another.
func (m *Model) moveVM(key string) {
	all := m.state.VMs
	if len(all) == 0 {
		return
	}
	at := slices.IndexFunc(all, func(vm control.VM) bool { return vm.Name == m.vm })
	if at < 0 && (key == "down" || key == "up") {
		key = "home"
	}
	m.vm = all[moved(key, at, len(all), max(m.height, 1))].Name
}

// onRefusal begins what a key does with the marked refusal.
func (m *Model) onRefusal(key string) {
	if m.pane != refusals || m.marked == nil {
		m.note = "mark a refused host first, with the arrow keys"
		return
	}
	r := *m.marked
	if m.stateOf(r.vm) == "" {
		m.note = "the AppVM of this host has no list any more"
		return
	}
	if key == "e" {
		if r.Host == "" {
			m.note = "nobody knows which host this was"
			return
		}
		m.begin(Command{Verb: "explain", VM: r.vm, Host: explained(r)})
		return
	}
	host, why := hostOf(r)
	if why != "" {
		m.note = why
		return
	}
	if key == "A" { // it says what it would add
		m.begin(Command{Verb: "allow", VM: r.vm, Host: host, Try: true})
		return
	}
	text := fmt.Sprintf("%s may reach this host for 10 minutes; no file is changed.\n", r.vm)
	if h, err := rules.ParseHost(host); err == nil && h.Port != 0 {
		text += fmt.Sprintf("Port %d is open meanwhile for all hosts of its list.\n", h.Port)
	}
	m.page, m.command, m.text, m.line = question, Command{Verb: "allow", VM: r.vm, Host: host, For: allowedFor}, text, 0
}

// hold asks whether to stop the proxy of an AppVM, or to start it.
func (m *Model) hold() {
	name := m.vm
	if m.pane == refusals && m.marked != nil {
		name = m.marked.vm
	} else if m.pane == refusals {
		name = ""
	}
	c := Command{Verb: "stop", VM: name}
	text := "Nothing passes for %s until it is started again; its connections are cut.\n"
	switch state := m.stateOf(name); {
	case name == "" || state == "":
		m.note = "mark an AppVM first, with TAB and the arrow keys"
		return
	case state == control.Stopped:
		c.Verb, text = "start", "What the list of %s permits passes again.\n"
	}
	m.page, m.command, m.text, m.line = question, c, fmt.Sprintf(text, name), 0
}
