package rules

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vifproxy/internal/terminal"
	"vifproxy/rules/flaws"
)

// An Origin is the kind of place where a list is. For one AppVM the first kind that exists counts, and lists are never mixed.
type Origin string

const (
	InDom0     Origin = "dom0"     // a feature of this VM, set in dom0
	InFile     Origin = "file"     // a file of the rule directory
	InRange    Origin = "range"    // a file of the rule directory for a range of addresses
	InFirewall Origin = "firewall" // firewall settings of the AppVM, made in dom0
)

// Lists are lists that are in no file.
type Lists struct {
	First []List                    // each counts, whatever the files say about its AppVM
	Last  []List                    // each counts if no other list is about its AppVM
	Shown map[netip.Addr]netip.Addr // gateways that AppVMs are shown in the place of their own, see Set

	Again time.Duration // until they should be read again without a change; 0 if never
}

// A List is one of them. It consists of names, as if "#: format domains" were written above it.
type List struct {
	Name      string     // of the AppVM
	Addr      netip.Addr // of the AppVM, IPv4
	Path      string     // where it is, for messages
	Origin    Origin
	Lines     []string // names and directives; the numbers of lines count these
	Err       error    // why it cannot be used; nil if it can
	Unsettled bool     // nothing is wrong with it but that it is not complete yet

	// Remedy says how a person gives the list these lines; nil for lines that only that person knows. It may be nil.
	Remedy func(lines []string) string
}

// Parse reads the list. The error is an *Error.
func (l *List) Parse() (File, error) {
	content := l.Content()
	f := File{Name: l.Name, Addr: l.Addr, Path: l.Path, Origin: l.Origin, sum: sha256.Sum256(content), domains: true, formatLine: 1}
	if len(l.Lines) == 0 {
		return f, nil
	}
	flawed := f.addAll(content, true)
	if flawed == nil {
		return f, nil
	}
	e := *flawed[0]
	if word := l.Lines[e.Line-1]; !strings.Contains(e.Text, word) {
		e.Text = flaws.Excerpt(word) + ": " + e.Text
	}
	if l.Remedy == nil {
		return f, &e
	}
	var better []string
	if e.Meant != nil {
		better = slices.Replace(slices.Clone(l.Lines), e.Line-1, e.Line, e.Meant...)
	}
	e.Remedy = strings.TrimPrefix(e.Remedy+"; "+l.Remedy(better), "; ")
	return f, &e
}

// Content returns the list as the content of a rule file of names, without the line that says the format.
func (l *List) Content() []byte { return []byte(strings.Join(l.Lines, "\n")) }

// refused returns what cannot be used of the list, or may turn out not to be; Err is nil as long as it may be used.
func (l *List) refused() Refused {
	r := Refused{Name: l.Name, Addr: l.Addr, Path: l.Path, Origin: l.Origin}
	switch {
	case l.Err != nil:
		e := wrong(l.Path, 0, l.Err.Error(), "")
		if e.Unsettled = l.Unsettled; !l.Unsettled && l.Remedy != nil {
			e.Remedy = l.Remedy(nil)
		}
		r.Err = e
	case !vmName.MatchString(l.Name):
		r.Name, r.Err = "", wrong(l.Path, 0, flaws.Excerpt(l.Name)+" is not a VM name",
			"a name is a letter and then up to 30 letters, digits, '_', '-' or '.'")
	case !l.Addr.Is4():
		r.Addr, r.Err = netip.Addr{}, wrong(l.Path, 0, flaws.Excerpt(l.Addr.String())+" is not an IPv4 address", "")
	}
	if !vmName.MatchString(r.Name) {
		r.Name = ""
	}
	return r
}

// join adds lists that are in no file. Of several lists for one AppVM the first counts, even if it cannot be used: the next one may
// permit what the first does not. A name belongs to the list that counts before others.
func (l *loaded) join(lists Lists) {
	names, addrs := map[string]string{}, map[netip.Addr]bool{}
	var all []loadedFile
	add := func(more []loadedFile) {
		more = slices.DeleteFunc(more, func(f loadedFile) bool { return addrs[f.Addr] })
		for i := range more {
			f := &more[i]
			if other, taken := names[f.Name]; taken && f.Err == nil && f.Origin != InRange {
				f.Err = wrong(f.Path, 0, fmt.Sprintf("the VM name %s is also that of %s", f.Name, terminal.Quote(other)), "keep one of them, or rename one")
			}
		}
		for _, f := range more {
			if f.Addr.IsValid() {
				addrs[f.Addr] = true
			}
			if _, taken := names[f.Name]; f.Name != "" && !taken && f.Origin != InRange {
				names[f.Name] = f.Path
			}
		}
		all = append(all, more...)
	}
	add(loadLists(lists.First))
	add(l.files)
	add(loadLists(lists.Last))
	l.files = all
}

// loadLists returns lists as if they had been read of files.
func loadLists(lists []List) []loadedFile {
	candidates := make([]Refused, len(lists))
	for i := range lists {
		candidates[i] = lists[i].refused()
	}
	refuseDuplicates(candidates)
	all := make([]loadedFile, len(lists))
	for i := range lists {
		all[i] = loadedFile{Refused: candidates[i], content: lists[i].Content(), list: &lists[i]}
	}
	return all
}
