package uses

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/internal/plan"
	"vifproxy/internal/terminal"
	"vifproxy/rules/hostname"
)

// replyMax bounds an answer, in bytes of JSON: a client takes 16 MiB.
const replyMax = 12 << 20

// Of returns which lines of the lists of AppVMs are used, in the order of vms. It is not nil.
func (b *Book) Of(vms []plan.Identity) []control.ListUse {
	all := []control.ListUse{}
	if b == nil {
		return all
	}
	for _, vm := range vms {
		if use, ok := b.one(vm); ok {
			all = append(all, use)
		}
	}
	for i := range all {
		slices.SortFunc(all[i].Lines, func(x, y control.LineUse) int {
			return cmp.Or(strings.Compare(x.Path, y.Path), strings.Compare(x.Pattern, y.Pattern))
		})
		all[i] = bounded(all[i], replyMax/len(all))
	}
	return all
}

// one returns the same for one AppVM, and whether it has a list.
func (b *Book) one(vm plan.Identity) (use control.ListUse, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.of[vm.Addr]
	if l == nil {
		return use, false
	}
	l.advance(time.Now())
	return l.reply(vm.Name), true
}

// bounded returns the same within so many bytes of JSON: without hosts, or without lines.
func bounded(use control.ListUse, most int) control.ListUse {
	fits := func() bool {
		text, err := json.Marshal(use)
		return err == nil && len(text) <= most
	}
	if fits() {
		return use
	}
	for i := range use.Lines {
		use.Lines[i].More = use.Lines[i].More || use.Lines[i].Hosts != nil
		use.Lines[i].Hosts = nil
	}
	if !fits() {
		use.Lines, use.Uncountable = []control.LineUse{}, "the list is too long"
	}
	return use
}

func (l *usedList) reply(vm string) control.ListUse {
	use := control.ListUse{VM: vm, Path: l.path, Uncountable: l.uncountable, Begun: l.begun, Counted: seconds(l.counted), Lost: l.lost,
		Last: l.lastLost, Lines: []control.LineUse{}}
	if l.uncountable != "" {
		return use
	}
	hosts := map[lineKey][]control.HostUse{}
	sums := make(map[lineKey]line, len(l.lines))
	for key, at := range l.lines {
		sums[key] = *at
	}
	for e := l.newest.Front(); e != nil; e = e.Next() {
		h := e.Value.(*host)
		name := nameOf(h.name)
		for _, key := range h.lines {
			at, there := sums[key]
			if !there {
				continue
			}
			at.add(h)
			sums[key] = at
			if i := slices.IndexFunc(hosts[key], func(other control.HostUse) bool { return other.Host == name }); i >= 0 {
				hosts[key][i].Count += h.count
			} else {
				hosts[key] = append(hosts[key], control.HostUse{Host: name, Count: h.count, Last: h.last})
			}
		}
	}
	for key, at := range sums {
		use.Lines = append(use.Lines, control.LineUse{Path: key.path, Pattern: key.pattern, Counted: seconds(l.counted - at.began), Count: at.count,
			First: at.first, Last: at.last, Hosts: hosts[key], More: at.more})
	}
	return use
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// nameOf returns a host as a list has it, or escaped if none can have it.
func nameOf(sent string) string {
	if name, flaw := hostname.Canonical(sent); flaw == nil {
		return name
	}
	return terminal.Escape(sent)
}
