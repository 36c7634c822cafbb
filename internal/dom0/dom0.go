// Package dom0 gives the lists that dom0 has decided to what reads rule files.
//
// Concurrency: the methods of a Source may be called from any goroutine.
package dom0

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"vifproxy/internal/terminal"
	"vifproxy/qubes"
	"vifproxy/rules"
)

// A Source is where the lists are: QubesDB of this VM.
type Source struct {
	*qubes.Source
	socket string
}

// New returns the Source at a socket of QubesDB. With firewall, the firewall settings of AppVMs are lists too.
func New(socket string, firewall bool) *Source {
	return &Source{qubes.NewSource(socket, firewall), socket}
}

// Join has a Reader of rule files read these lists too. Nothing is read of a nil Source.
func (s *Source) Join(r *rules.Reader) {
	if s != nil {
		r.Also(s.Lists, func() bool { return s.Changed(context.Background()) })
	}
}

// Lists returns all lists. After an error nothing is known.
func (s *Source) Lists() (all rules.Lists, err error) {
	found, err := s.Source.Lists(context.Background())
	if err != nil {
		return rules.Lists{}, err
	}
	all.Shown = s.Shown()
	for _, l := range found {
		list := rules.List{Name: l.Name, Addr: l.Addr, Path: l.Path, Lines: l.Lines, Err: l.Err, Unsettled: l.Incomplete()}
		if !l.Until.IsZero() {
			all.Again = min(cmp.Or(all.Again, time.Until(l.Until)), time.Until(l.Until))
			all.Again = max(all.Again, time.Millisecond)
		}
		if l.Firewall { // nobody has told this VM the AppVM's name
			list.Name, list.Origin = "vm-"+l.Addr.String(), rules.InFirewall
			list.Remedy = func([]string) string { return "change the firewall settings of the AppVM in dom0" }
			all.Last = append(all.Last, list)
			continue
		}
		list.Origin = rules.InDom0
		list.Remedy = func(lines []string) string { return "in dom0: " + s.Feature(list, lines) }
		all.First = append(all.First, list)
	}
	return all, nil
}

// Feature returns the command for dom0 that gives a list, which is a feature of this VM, these lines; nil for a person's own.
func (s *Source) Feature(list rules.List, lines []string) string {
	return qubes.Feature(s.VM(), qubes.Key(list.Path), Words(lines))
}

// VM returns the name of this VM; "" if QubesDB does not tell.
func (s *Source) VM() string {
	vm, _ := qubes.Value(context.Background(), s.socket, "/name")
	return vm
}

// Words returns the words of a feature for the lines of a list of names; nil for nil.
func Words(lines []string) (words []string) {
	if lines != nil {
		words = []string{}
	}
	for _, line := range lines {
		words = append(words, qubes.WordOf(line))
	}
	return words
}

// errPatterns is in the error of a list that a feature cannot have.
var errPatterns = errors.New("has patterns, and a feature has names: begin the file with \"#: format domains\", and write names")

// Keeping returns the command for dom0 that makes a feature of the rule file of one AppVM. QubesDB is at socket, or if that is "", where it
// always is.
func Keeping(path, socket string) (string, error) {
	content, err := rules.ReadFile(path)
	if err != nil {
		return "", err
	}
	file, err := rules.ParseFile(path, content)
	if err == nil && !file.Addr.IsValid() {
		err = errors.New("it is not for one AppVM")
	}
	if err != nil {
		return "", err
	}
	return New(cmp.Or(socket, qubes.Socket), false).Export(file)
}

// Export returns the command for dom0 that makes a feature of a list.
func (s *Source) Export(file rules.File) (string, error) {
	if !file.Names() && !file.Unwritten() {
		return "", fmt.Errorf("%s %w", terminal.Quote(file.Path), errPatterns)
	}
	lines := []string{}
	for _, l := range file.Entries() {
		entry, flaw := rules.EntryOf(l.Source)
		if flaw != nil {
			return "", flaw
		}
		lines = append(lines, entry)
	}
	for _, p := range file.Ports {
		if strings.HasPrefix(p.Text, "#:") {
			lines = append(lines, fmt.Sprintf("#: port %d", p.Number))
		}
	}
	for _, e := range file.Egress {
		lines = append(lines, "#: egress "+e.String())
	}
	if size := len(strings.Join(Words(lines), " ")); size > qubes.ValueMax {
		return "", fmt.Errorf("%s would have %d bytes in a feature, where %d are possible: keep the file", terminal.Quote(file.Path), size, qubes.ValueMax)
	}
	return qubes.Feature(s.VM(), qubes.KeyFor(file.Name, file.Addr), Words(lines)), nil
}

// Describe returns what dom0 has, for people: the path of each list in QubesDB, and below it the lines, or why it cannot be used.
func (s *Source) Describe() (string, error) {
	lists, err := s.Lists()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, l := range slices.Concat(lists.First, lists.Last) {
		fmt.Fprintf(&b, "%s\n", terminal.Quote(l.Path))
		for _, line := range l.Lines {
			fmt.Fprintf(&b, "    %s\n", terminal.Quote(line))
		}
		if l.Err != nil {
			fmt.Fprintf(&b, "  wrong: %s\n", terminal.Quote(l.Err.Error()))
		} else if _, err := l.Parse(); err != nil {
			fmt.Fprintf(&b, "  wrong: %s\n", terminal.Quote(err.Error()))
		}
	}
	if b.Len() == 0 {
		return "dom0 has no lists\n", nil
	}
	return b.String(), nil
}

// InFirewall returns an error that says how hosts are added to a list that is an AppVM's firewall settings. Only a person knows the name
// that the AppVM has in dom0.
func InFirewall(name string, hosts []rules.Host) error {
	text := fmt.Sprintf("the list of %s is its firewall settings in dom0: change them in Qube Settings", terminal.Quote(name))
	for _, host := range hosts {
		if !host.Below {
			text += fmt.Sprintf(", or by `qvm-firewall NAME add --before=0 accept dsthost=%s proto=tcp dstports=%d-%[2]d`", host.Name, cmp.Or(host.Port, 443))
		}
	}
	return errors.New(text + "; they cannot name all hosts below one, but a list of its own can: see `vifproxyctl help rules`")
}
