// Package dom0 gives the lists that dom0 has decided to what reads rule files.
//
// Concurrency: the methods of a Source may be called from any goroutine.
package dom0

import (
	"cmp"
	"context"
	"time"

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
	for _, l := range found {
		list := rules.List{Name: l.Name, Addr: l.Addr, Path: l.Path, Lines: l.Lines, Err: l.Err, Unsettled: l.Incomplete()}
		if !l.Until.IsZero() {
			all.Again = min(cmp.Or(all.Again, time.Until(l.Until)), time.Until(l.Until))
			all.Again = max(all.Again, time.Millisecond)
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

// NewFeature returns the command for dom0 that makes a list for an AppVM.
func (s *Source) NewFeature(file rules.File, lines []string) string {
	return qubes.Feature(s.VM(), qubes.KeyFor(file.Name, file.Addr), Words(lines))
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
