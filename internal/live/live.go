// Package live is what `vifproxyctl live` shows, and what its keys mean: AppVMs, what was refused to them, and the commands of vifproxyctl
// that a person may run on the one that is marked. It runs none itself.
//
// An AppVM can have as many names refused as it likes, to move the list under the mark of a person. So the list of what was refused stands
// still from the moment in which a person marks a row until the person lets it go on, the mark is on a refusal and not on a row, and each
// command is shown in full before it is run, as it was when the key was pressed.
//
// Concurrency: a [Model] is not for use by several goroutines at once. [Follow] has its changes made by the goroutine of the model.
package live

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/screen"
	"vifproxy/rules"
)

// A State is what is known at a time.
type State struct {
	VMs     []control.VM
	Denied  []events.Denied
	Traffic map[string]Rate // by name of the AppVM; those whose links are not seen have none
}

// A Rate is what an AppVM moves, in bytes a second.
type Rate struct{ Down, Up uint64 }

// A Command is a command of vifproxyctl: a verb, a name and perhaps a host.
type Command struct {
	Verb, VM, Host string
	For            time.Duration // of allow: 0 is for good
	Try            bool          // say what it would do
}

// String returns the command as a shell takes it.
func (c Command) String() string {
	words := []string{"vifproxyctl", c.Verb, c.VM}
	if c.Host != "" {
		words = append(words, strings.ReplaceAll(c.Host, "*", `\*`))
	}
	if c.For > 0 {
		words = append(words, "--for="+strings.TrimSuffix(c.For.String(), "0s"))
	}
	return strings.Join(words, " ")
}

// A Runner begins to run a command, and returns. Later it has Finished called with what it printed, and whether it failed.
type Runner func(Command)

// allowedFor is for how long the key "a" lets a host pass.
const allowedFor = 10 * time.Minute

// A row is a refusal in the list.
type row struct {
	vm, ip string
	events.DeniedHost
}

// An identity is what all rows of one refusal have in common, also when it happens again.
type identity struct {
	vm, ip, host string
	port         uint16
	reason       events.Reason
}

func (r row) identity() identity { return identity{r.vm, r.ip, r.Host, r.Port, r.Reason} }

// same reports whether two rows are of one refusal.
func (r row) same(other row) bool { return r.identity() == other.identity() }

// A pane is one of the two lists.
type pane int

const (
	vms pane = iota
	refusals
)

// A page is what fills the screen in place of the lists.
type page int

const (
	lists page = iota
	running
	question
	result
	help
)

// A Model is what the screen shows, and where the person is.
type Model struct {
	run     Runner
	state   State
	trouble string // why state is old; "" if it is not
	known   bool   // there is a state
	over    bool

	pane   pane
	note   string // what the last key could not do, or that a lesson is over
	vm     string // that is marked; "" if none is
	shown  []row  // that were drawn last, from the first one on
	stands []row  // what the list stands still with; nil if it goes on
	marked *row
	first  [2]int // row of each pane that is shown first
	height int    // of the pane of refusals, as it was drawn last

	page    page
	command Command // that is run or asked about
	text    string  // of the question or the result
	failed  bool
	line    int // of the text that is shown first
	lines   int // of the text, as it was drawn last
}

// New returns a model that has not been told anything yet.
func New(run Runner) *Model { return &Model{run: run, pane: refusals} }

// Set tells the model how things are.
func (m *Model) Set(s State) {
	for _, vm := range m.state.VMs {
		learns := func(other control.VM) bool { return other.Name == vm.Name && !other.Learning.IsZero() }
		if !vm.Learning.IsZero() && !slices.ContainsFunc(s.VMs, learns) {
			m.note = screen.Word(vm.Name) + " learns no more: its list is in force again"
		}
	}
	m.state, m.known, m.trouble = s, true, ""
	slices.SortStableFunc(m.state.VMs, func(a, b control.VM) int { return strings.Compare(a.Name, b.Name) })
	if !slices.ContainsFunc(s.VMs, func(vm control.VM) bool { return vm.Name == m.vm }) {
		m.vm = ""
	}
}

// Fail tells the model that nobody knows how things are now.
func (m *Model) Fail(why string) { m.trouble = why }

// Over reports whether the person has done with it.
func (m *Model) Over() bool { return m.over }

// Asks reports whether a question is shown.
func (m *Model) Asks() bool { return m.page == question }

// Finished tells the model what became of a command.
func (m *Model) Finished(c Command, text string, failed bool) {
	if m.page != running || c != m.command {
		return
	}
	m.page, m.text, m.failed, m.line = result, text, failed, 0
	if c.Try && !failed {
		m.page = question
	}
}

// begin runs a command.
func (m *Model) begin(c Command) {
	m.page, m.command = running, c
	m.run(c)
}

// rows returns what was refused, newest first, and what browsers ask for by themselves behind all other.
func (m *Model) rows() (rows []row) {
	for _, vm := range m.state.Denied {
		for _, host := range vm.Hosts {
			rows = append(rows, row{vm.VM, vm.IP, host})
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		background := func(r row) int { return min(len(r.Browser), 1) }
		return cmp.Or(background(a)-background(b), b.Last.Compare(a.Last))
	})
	return rows
}

// newer returns how many refusals are not among those with which the list stands still.
func (m *Model) newer() (count int) {
	stand := map[identity]bool{}
	for _, r := range m.stands {
		stand[r.identity()] = true
	}
	for _, r := range m.rows() {
		if !stand[r.identity()] {
			count++
		}
	}
	return count
}

// stateOf returns the state of an AppVM; "" if it has no list any more.
func (m *Model) stateOf(name string) string {
	for _, vm := range m.state.VMs {
		if vm.Name == name {
			return vm.State
		}
	}
	return ""
}

// hostOf returns the host of a refusal as allow takes it, or why no list can permit it.
func hostOf(r row) (host, why string) {
	if r.Reason != events.ReasonList && r.Reason != events.ReasonPort {
		return "", "no list refused this host: e says what is in the way"
	}
	h, err := rules.ParseHost(r.Host)
	if err != nil || h.Below {
		return "", "this is not a host name: no list can permit it"
	}
	switch {
	case h.Port != 0 || r.Port == 0: // a URL has its port; or nobody knows it
	case r.Reason == events.ReasonPort && r.Port == 80:
		return "ws://" + h.Name + "/", "" // allow takes any other writing for a plain request, which needs no port
	case r.Port != 80 && r.Port != 443 || r.Reason == events.ReasonPort:
		h.Port = r.Port
	}
	return h.String(), ""
}

// explained returns what explain is asked about a refusal.
func explained(r row) string {
	h, err := rules.ParseHost(r.Host)
	switch {
	case err != nil || strings.Contains(r.Host, "://"):
		return r.Host
	case r.Port == 80 && r.Reason != events.ReasonPort:
		return "http://" + h.Name + "/"
	case r.Port != 0 && r.Port != 443:
		h.Port = r.Port
	}
	return h.String()
}

// screenKeys are the keys that do something, for the last line of the screen and for the page of help.
var screenKeys = []struct{ key, short, long string }{
	{"a", "10 min", "let the marked host pass for 10 minutes; no file is changed"},
	{"A", "for good", "add the marked host to the list of its AppVM"},
	{"e", "explain", "say why the marked host does not pass: the request is tried"},
	{"h", "hold", "stop the proxy of the marked AppVM, or of the marked host's; again: start it"},
	{"TAB", "other list", "go to the other list"},
	{"r", "go on", "let the list of refused hosts go on, which stands still while one is marked"},
	{"?", "help", "show this"},
	{"q", "quit", "quit"},
}

var _ screen.Model = (*Model)(nil)
