package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vifproxy/internal/policy"
	"vifproxy/internal/resolvconf"
	"vifproxy/internal/stops"
	"vifproxy/internal/terminal"
	"vifproxy/netwatch"
	"vifproxy/rules"
	"vifproxy/rules/flaws"
	"vifproxy/tinyproxy"
)

// An Identity is an AppVM as a person knows it: another one that gets the address later inherits neither what was allowed for a
// time nor since when it runs.
type Identity struct {
	Name string
	Addr netip.Addr
}

// Inputs is everything that decides what should be there.
type Inputs struct {
	Links     netwatch.Snapshot
	Rules     rules.Set
	Binary    tinyproxy.Binary
	Resolvers resolvconf.Memory
	Places    policy.Places      // that sandboxes depend on, as far as somebody has looked
	Stops     stops.Record       // by `stop` and `kill-all`, until `start`
	KillAlls  int                // under way: no AppVM has a proxy until all proxies have ended
	Restarts  map[netip.Addr]int // by `restart`

	Temporary Temporary // by `allow --for`
	Lessons   Lessons   // by `learn`
}

// A Desired is what should be there for one AppVM that has a list.
type Desired struct {
	Name     string
	Addr     netip.Addr
	Path     string // of its rule file, or where else its list is
	Origin   rules.Origin
	Vifs     []string   // on which it is connected; none: it is not
	Links    []int32    // their indexes
	Bind     netip.Addr // its gateway, if it is connected
	Shown    netip.Addr // the gateway that it is shown in the place of that; invalid if it is shown that
	Places   policy.Places
	Held     bool
	Waits    bool           // it has just connected, and its rules have to be read again before anything serves it
	Policy   *policy.Policy // nil where Err says why there is none
	Learning *policy.Policy // what serves in the place of Policy during a lesson; nil if there is none
	Err      error          // its rule file or the template is wrong, or not complete: what ran last goes on
	Told     error          // the part of Err that is an event: none while somebody writes

	StoppedBy string    // a person, or why that is not known; "" if it is not stopped
	Since     time.Time // if so
}

// Identity returns the AppVM as a person knows it.
func (d *Desired) Identity() Identity { return Identity{d.Name, d.Addr} }

// Connected reports whether the AppVM is connected; not, if d is nil.
func (d *Desired) Connected() bool { return d != nil && len(d.Vifs) > 0 }

// Gateway returns the gateway that the AppVM knows.
func (d *Desired) Gateway() netip.Addr {
	if d.Shown.IsValid() {
		return d.Shown
	}
	return d.Bind
}

// Wanted reports whether a proxy should run at all.
func (d *Desired) Wanted() bool { return d.Connected() && !d.Held }

// Desired returns what should be there for all AppVMs, sorted by name, then address. cache saves the reading of templates and rule
// files that have not changed.
func (in Inputs) Desired(cache Cache) []*Desired {
	byAddr := make(map[netip.Addr]*Desired, len(in.Rules.Files))
	all := make([]*Desired, 0, len(in.Rules.Files))
	add := func(d *Desired) *Desired {
		if other := byAddr[d.Addr]; other != nil && d.Addr.IsValid() {
			return other // a second refused file for one address: the first in order stands for both, each names the other
		}
		byAddr[d.Addr] = d
		all = append(all, d)
		return d
	}
	for _, file := range in.Rules.Files {
		link, _ := in.Links.Find(file.Addr)
		add(in.DesiredOf(file, link, cache))
	}
	for _, refused := range in.Rules.Refused {
		if refused.Name == "" {
			continue // no AppVM's row to show it in: among the general problems
		}
		link, _ := in.Links.Find(refused.Addr)
		if d := add(in.appVM(refused.Name, refused.Addr, link).from(refused.Path, refused.Origin)); d.Err == nil {
			d.Policy, d.Err = nil, refused.Err
		}
	}
	names := make(map[string]string, len(all))
	for _, d := range all {
		names[d.Name] = d.Path
	}
	for _, link := range in.Links {
		if r, ok := in.Rules.InRange(link.Addr); ok && byAddr[link.Addr] == nil {
			add(in.inRange(r, link, names[r.NameOf(link.Addr)], cache))
		}
	}
	// An AppVM of a range loses what it was allowed for a time when it goes, and its policy here would bring that back.
	maps.DeleteFunc(cache, func(addr netip.Addr, _ cachedPolicy) bool { return byAddr[addr] == nil })
	slices.SortFunc(all, func(a, b *Desired) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.Addr.Compare(b.Addr))
	})
	return all
}

// inRange returns what should be there for an AppVM that has the list of its range. other has a list for another AppVM of the same name;
// "" if there is none.
func (in Inputs) inRange(r rules.Range, link netwatch.AppVM, other string, cache Cache) *Desired {
	err := r.Err
	if other != "" && err == nil {
		err = &rules.Error{Path: r.Path, Flaw: flaws.Flaw{
			Text: "the name " + r.NameOf(link.Addr) + " of an AppVM is also that of " + terminal.Quote(other), Remedy: "rename one of these files"}}
	}
	if err == nil {
		return in.DesiredOf(r.Of(link.Addr), link, cache)
	}
	d := in.appVM(r.NameOf(link.Addr), link.Addr, link).from(r.Path, rules.InRange)
	d.Err = err
	return d
}

// DesiredOf returns what should be there for the AppVM of a rule file, connected as given.
func (in Inputs) DesiredOf(file rules.File, link netwatch.AppVM, cache Cache) *Desired {
	d := in.appVM(file.Name, file.Addr, link).from(file.Path, file.Origin)
	if d.Err = cmp.Or(in.Rules.TemplateErr, in.Rules.CeilingErr); d.Err != nil {
		return d
	}
	bind := d.Bind
	if !d.Connected() {
		bind = netip.IPv4Unspecified() // to find mistakes before the AppVM starts
	}
	d.Policy, d.Err = cache.policy(file, in.TemporaryHosts, in.Rules.Template, in.Places,
		policy.Input{Bind: bind, Binary: in.Binary, Restarts: in.Restarts[d.Addr], Ceiling: in.Rules.Ceiling})
	if lesson := in.Lessons.Of(d.Identity()); lesson != nil && d.mayNotLearn(lesson.Vifs) == "" {
		d.Learning = cache.learning(d.Addr, lesson.ID)
	}
	return d
}

// TemporaryHosts returns what a file's AppVM may reach for a time, in a stable order.
func (in Inputs) TemporaryHosts(f rules.File) []rules.Host {
	return slices.SortedFunc(maps.Keys(in.Temporary[Identity{f.Name, f.Addr}]), func(a, b rules.Host) int {
		return strings.Compare(a.String(), b.String())
	})
}

// Prune forgets what people have asked for AppVMs that have no list any more, or another name. want is what should be there, by address.
func (in Inputs) Prune(want map[netip.Addr]*Desired) {
	maps.DeleteFunc(in.Temporary, func(who Identity, _ map[rules.Host]time.Duration) bool {
		d := want[who.Addr]
		return d == nil || d.Name != who.Name
	})
	maps.DeleteFunc(in.Restarts, func(addr netip.Addr, _ int) bool { return want[addr] == nil })
}

func (in Inputs) appVM(name string, addr netip.Addr, link netwatch.AppVM) *Desired {
	since, by := in.Stops.Of(name, addr)
	return &Desired{Name: name, Addr: addr, Vifs: link.Vifs, Links: link.Links, Bind: link.Gateway, Shown: in.Rules.Shown[addr], Places: in.Places,
		Held: by != "" || in.KillAlls > 0, StoppedBy: by, Since: since}
}

// from notes where the list is.
func (d *Desired) from(path string, origin rules.Origin) *Desired {
	d.Path, d.Origin = path, origin
	return d
}

// A Cache holds the last policy of each AppVM, as long as rule file and template are the same and nothing else is
// allowed for a time.
type Cache map[netip.Addr]cachedPolicy

type cachedPolicy struct {
	policy.Input
	policy   *policy.Policy
	err      error
	learning *policy.Policy // for the last lesson
}

// Keep forgets the policies of what is not the same in both sets.
func (c Cache) Keep(before, now rules.Set) {
	if before.TemplateErr != nil || now.TemplateErr != nil || !before.Template.Same(now.Template) {
		clear(c)
		return
	}
	listsOf := func(set rules.Set) func(netip.Addr) (rules.File, bool) {
		files := make(map[netip.Addr]rules.File, len(set.Files))
		for _, f := range set.Files {
			files[f.Addr] = f
		}
		return func(addr netip.Addr) (rules.File, bool) {
			if f, there := files[addr]; there {
				return f, true
			}
			r, ok := set.InRange(addr)
			return r.Of(addr), ok && r.Err == nil
		}
	}
	old, current := listsOf(before), listsOf(now)
	maps.DeleteFunc(c, func(addr netip.Addr, _ cachedPolicy) bool {
		was, there := old(addr)
		is, stays := current(addr)
		return !there || !stays || !was.Same(is)
	})
}

func (c Cache) policy(f rules.File, temporary func(rules.File) []rules.Host, t rules.Template, places policy.Places, in policy.Input) (*policy.Policy, error) {
	made, ok := c[f.Addr]
	if !ok || made.Input != in {
		made = cachedPolicy{Input: in}
		made.policy, made.err = policy.New(f, temporary(f), t, in)
		c[f.Addr] = made
	}
	if p := made.policy; p != nil && p.Places != places.Of(p) {
		made.policy, made.learning = p.At(p.Bind, places.Of(p)), nil
		c[f.Addr] = made
	}
	return made.policy, made.err
}

// learning returns the policy for a lesson of an AppVM whose policy is in the cache.
func (c Cache) learning(addr netip.Addr, lesson int) *policy.Policy {
	made := c[addr]
	if made.learning == nil || made.learning.Lesson != lesson {
		made.learning = made.policy.Learning(lesson)
		c[addr] = made
	}
	return made.learning
}
