package plan

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/backoff"
	"vifproxy/internal/policy"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

var (
	gateway = netip.MustParseAddr("10.138.1.1")
	t0      = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	limits  = Limits{Drain: time.Hour, Generations: 16}
)

// allow is the policy of an AppVM whose white list is the given lines.
func allow(addr netip.Addr, lines ...string) *policy.Policy {
	p := &policy.Policy{
		Name: "vm" + addr.String(), Addr: addr, Bind: gateway,
		Config: tinyproxy.Config{Filter: tinyproxy.Filter{Enabled: true, DefaultDeny: true}},
	}
	for i, l := range lines {
		p.Rules = append(p.Rules, tinyproxy.FilterLine{Text: l, Number: i + 1})
	}
	return policy.Sealed(*p)
}

// world is a firewall VM without processes: what plan is about, and nothing else.
type world struct {
	want   []*Desired
	have   map[netip.Addr]*Actual
	lastID int
}

func (w *world) actual() (all []*Actual) {
	for _, a := range w.have {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *Actual) int { return a.Addr.Compare(b.Addr) })
	return all
}

// apply does what a plan says as if everything worked at once.
func (w *world) apply(p Plan, now time.Time) {
	for _, a := range w.have {
		a.Generations = slices.DeleteFunc(a.Generations, func(g Generation) bool {
			return slices.ContainsFunc(p.End, func(e End) bool { return e.ID == g.ID })
		})
		for i := range a.Generations {
			g := &a.Generations[i]
			if slices.Contains(p.Retire, g.ID) {
				g.Retired = now
			}
			g.Idle = !g.Retired.IsZero()
			g.Ready = true
		}
	}
	for _, policy := range p.Start {
		a := w.have[policy.Addr]
		if a == nil {
			a = &Actual{Addr: policy.Addr}
			w.have[policy.Addr] = a
		}
		w.lastID++
		a.Generations = append(a.Generations, Generation{ID: w.lastID, Policy: policy, Port: uint16(w.lastID), Socket: uint64(1000 + w.lastID), Ready: true})
		a.LastGood = policy
	}
}

// randomWorld has up to six AppVMs, each with any desired state and any history.
func randomWorld(r *rand.Rand) *world {
	w := &world{have: map[netip.Addr]*Actual{}}
	gateways := []netip.Addr{gateway, netip.MustParseAddr("10.139.0.1")}
	for i := range 6 {
		addr := netip.AddrFrom4([4]byte{10, 137, 0, byte(i + 1)})
		var policies []*policy.Policy
		for n := range 4 {
			lines := []string{"a", "b", "c", "d"}[:n+1]
			policies = append(policies, allow(addr, lines...).At(gateways[r.IntN(2)], ""))
		}
		pick := func() *policy.Policy { return policies[r.IntN(len(policies))] }
		if r.IntN(5) > 0 {
			d := &Desired{Name: policies[0].Name, Addr: addr, Bind: gateways[r.IntN(2)], Held: r.IntN(6) == 0}
			for n := range r.IntN(3) {
				d.Vifs, d.Links = append(d.Vifs, fmt.Sprintf("vif%d.%d", i, n)), append(d.Links, int32(10*i+n))
			}
			if r.IntN(5) > 0 {
				d.Policy = pick().At(d.Bind, "")
			} else {
				d.Err = errors.New("bad rule file")
			}
			w.want = append(w.want, d)
		}
		if r.IntN(4) > 0 {
			a := &Actual{Addr: addr, Failures: map[string]backoff.Failure{}}
			for range r.IntN(6) {
				w.lastID++
				g := Generation{ID: w.lastID, Policy: pick(), Port: uint16(w.lastID), Socket: uint64(1000 + w.lastID), Ready: r.IntN(3) > 0}
				if r.IntN(3) == 0 {
					g.Retired = t0.Add(-time.Duration(r.IntN(120)) * time.Minute)
				}
				g.Dying = r.IntN(6) == 0
				a.Generations = append(a.Generations, g)
			}
			if r.IntN(2) == 0 {
				a.LastGood = pick()
			}
			if r.IntN(3) == 0 {
				a.Failures[pick().Key()] = backoff.Failure{Bad: r.IntN(2) == 0, Retry: t0.Add(time.Minute)}
			}
			w.have[addr] = a
		}
	}
	return w
}

// check holds a plan against the invariants: a binding points at a listening process of the AppVM's own, which is not
// being ended, and comes from a vif on which that AppVM is connected.
func (w *world) check(p Plan) error {
	for _, b := range p.Bindings {
		i := slices.IndexFunc(w.want, func(d *Desired) bool { return d.Addr == b.Addr })
		if i < 0 || w.want[i].Held || !slices.Contains(w.want[i].Vifs, b.Vif) {
			return fmt.Errorf("%v: nobody wants it", b)
		}
		gens := w.have[b.Addr].Generations
		j := slices.IndexFunc(gens, func(g Generation) bool { return g.Port == b.To.Port() && g.Ready && !g.Dying })
		if j < 0 || gens[j].Policy.Addr != b.Addr || gens[j].Policy.Bind != b.To.Addr() {
			return fmt.Errorf("%v: no process of its own listens there", b)
		}
		if slices.ContainsFunc(p.End, func(e End) bool { return e.ID == gens[j].ID }) {
			return fmt.Errorf("%v: that process is to be ended", b)
		}
	}
	return nil
}

func TestPlanConvergesFromAnyState(t *testing.T) {
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := randomWorld(r)
		rounds := 0
		for {
			p := Of(w.want, w.actual(), t0, limits)
			if err := w.check(p); err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, rounds, err)
			}
			w.apply(p, t0)
			for _, a := range w.have {
				a.Generations = slices.DeleteFunc(a.Generations, func(g Generation) bool { return g.Dying })
			}
			if len(p.Start)+len(p.End)+len(p.Retire) == 0 && rounds > 0 {
				if err := w.equalsDesired(p.Bindings); err != nil {
					t.Fatalf("seed %d, after %d rounds: %v", seed, rounds, err)
				}
				break
			}
			if rounds++; rounds > 10 {
				t.Fatalf("seed %d: does not come to rest: %+v", seed, p)
			}
		}
	}
}

// equalsDesired computes anew what should be there, from the definition: one process for each AppVM that is
// connected and not held, with its own policy, or its last good one where that is bad.
func (w *world) equalsDesired(bindings []firewall.Binding) error {
	expected := 0
	for _, d := range w.want {
		a := w.have[d.Addr]
		if len(d.Vifs) == 0 || d.Held {
			if a != nil && len(a.Generations) > 0 {
				return fmt.Errorf("%s: processes that nobody wants", d.Name)
			}
			continue
		}
		var good *policy.Policy
		waiting := map[string]backoff.Failure{}
		if a != nil {
			waiting = a.Failures
			if a.LastGood != nil {
				good = a.LastGood.At(d.Bind, d.Places.Of(a.LastGood))
			}
		}
		target := d.Policy
		if target == nil || good != nil && waiting[target.Key()].Bad {
			target = good
		}
		if target == nil || a == nil {
			continue
		}
		serves := slices.IndexFunc(a.Generations, func(g Generation) bool { return g.Policy.Key() == target.Key() })
		if _, failing := waiting[target.Key()]; failing && serves < 0 {
			serves = slices.IndexFunc(a.Generations, func(g Generation) bool { return g.Policy.Bind == d.Bind })
			if serves < 0 {
				continue // it waits for its next try
			}
		}
		if serves < 0 || len(a.Generations) != 1 {
			return fmt.Errorf("%s: want one process with %v, have %v", d.Name, target, a.Generations)
		}
		for i, vif := range d.Vifs {
			expected++
			g := a.Generations[serves]
			b := firewall.Binding{Vif: vif, Link: d.Links[i], Addr: d.Addr, To: netip.AddrPortFrom(d.Bind, g.Port), Socket: g.Socket}
			if !slices.Contains(bindings, b) {
				return fmt.Errorf("%s: no binding %v in %v", d.Name, b, bindings)
			}
		}
	}
	if expected != len(bindings) {
		return fmt.Errorf("want %d bindings, have %v", expected, bindings)
	}
	return nil
}

// TestRetiring shows what becomes of the old process once the new one serves.
func TestRetiring(t *testing.T) {
	addr := netip.MustParseAddr("10.137.0.9")
	deny := func(p *policy.Policy) *policy.Policy {
		q := *p
		q.Config.Filter.DefaultDeny = false
		return policy.Sealed(q)
	}
	otherTemplate := allow(addr, "a", "b")
	otherTemplate.Config.Fingerprint = sha256.Sum256([]byte("MaxClients 1\n"))
	otherTemplate = policy.Sealed(*otherTemplate)
	open := func(p *policy.Policy, networks string) *policy.Policy {
		q := *p
		q.Egress, _ = rules.ParseEgress(networks)
		return policy.Sealed(q)
	}
	tests := []struct {
		name     string
		old, new *policy.Policy
		old2     Generation
		end      []End
		retire   []int
	}{
		{name: "line added to a white list", old: allow(addr, "a"), new: allow(addr, "a", "b"), retire: []int{1}},
		{name: "lines reordered", old: allow(addr, "a", "b"), new: allow(addr, "b", "a"), retire: []int{1}},
		{name: "line removed from a white list", old: allow(addr, "a", "b"), new: allow(addr, "a"), end: kill(1)},
		{name: "line replaced", old: allow(addr, "a"), new: allow(addr, "b"), end: kill(1)},
		{name: "line added to a black list", old: deny(allow(addr, "a")), new: deny(allow(addr, "a", "b")), end: kill(1)},
		{name: "line removed from a black list", old: deny(allow(addr, "a", "b")), new: deny(allow(addr, "a")), retire: []int{1}},
		{name: "egress added", old: allow(addr, "a"), new: open(allow(addr, "a"), "10.1.0.0/16"), retire: []int{1}},
		{name: "egress widened", old: open(allow(addr, "a"), "10.1.0.0/16"), new: open(allow(addr, "a"), "10.0.0.0/8"), retire: []int{1}},
		{name: "egress narrowed", old: open(allow(addr, "a"), "10.0.0.0/8"), new: open(allow(addr, "a"), "10.1.0.0/16"), end: kill(1)},
		{name: "egress removed", old: open(allow(addr, "a"), "10.1.0.0/16"), new: allow(addr, "a"), end: kill(1)},
		{name: "template changed", old: allow(addr, "a"), new: otherTemplate, end: kill(1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := []*Desired{{Name: "x", Addr: addr, Vifs: []string{"vif1.0"}, Links: []int32{3}, Bind: gateway, Policy: tt.new}}
			have := []*Actual{{Addr: addr, Generations: []Generation{
				{ID: 1, Policy: tt.old, Port: 1, Ready: true},
				{ID: 2, Policy: tt.new, Port: 2, Ready: true},
			}}}
			p := Of(want, have, t0, limits)
			for i := range p.End {
				p.End[i].Why = ""
			}
			if !slices.Equal(p.End, tt.end) || !slices.Equal(p.Retire, tt.retire) {
				t.Errorf("ends %v, retires %v; want %v and %v", p.End, p.Retire, tt.end, tt.retire)
			}
			if len(p.Bindings) != 1 || p.Bindings[0].To.Port() != 2 {
				t.Errorf("bound to %v, want port 2", p.Bindings)
			}
		})
	}
}

func kill(id int) []End { return []End{{ID: id, How: Soon}} }

// TestRetiredAreBounded shows that neither time nor number of old processes grows without bound, and that a later
// change that takes something away ends all that still permit it.
func TestRetiredAreBounded(t *testing.T) {
	addr := netip.MustParseAddr("10.137.0.9")
	lines := []string{"a", "b", "c", "d", "e", "f"}
	gens := func(now time.Time) (all []Generation) {
		for i := range lines {
			g := Generation{ID: i + 1, Policy: allow(addr, lines[:i+1]...), Port: uint16(i + 1), Ready: true}
			if i < len(lines)-1 {
				g.Retired = now.Add(-time.Duration(len(lines)-i) * time.Minute)
			}
			all = append(all, g)
		}
		return all
	}
	ids := func(p Plan) (ids []int) {
		for _, e := range p.End {
			ids = append(ids, e.ID)
		}
		slices.Sort(ids)
		return ids
	}
	want := func(p *policy.Policy) []*Desired {
		return []*Desired{{Name: "x", Addr: addr, Vifs: []string{"vif1.0"}, Links: []int32{3}, Bind: gateway, Policy: p}}
	}
	limits := Limits{Drain: time.Hour, Generations: 3}
	all := gens(t0)
	p := Of(want(all[5].Policy), []*Actual{{Addr: addr, Generations: all}}, t0, limits)
	if got := ids(p); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("three may stay: ends %v, want [1 2]", got)
	}
	p = Of(want(all[5].Policy), []*Actual{{Addr: addr, Generations: all}}, t0.Add(56*time.Minute+30*time.Second), limits)
	if got := ids(p); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("an hour is over for the third: ends %v, want [1 2 3]", got)
	}
	dying := slices.Clone(all)
	dying[3].Dying, dying[4].Dying, dying[4].Retired = true, true, time.Time{} // told to end for another reason
	p = Of(want(all[5].Policy), []*Actual{{Addr: addr, Generations: dying}}, t0, limits)
	if got := ids(p); len(got) > 0 || len(p.Retire) > 0 {
		t.Errorf("three stay: ends %v and retires %v, want none", got, p.Retire)
	}
	narrow := Generation{ID: 7, Policy: allow(addr, "a", "b"), Port: 7, Ready: true}
	p = Of(want(narrow.Policy), []*Actual{{Addr: addr, Generations: append(all, narrow)}}, t0, limits)
	for _, e := range p.End {
		if (e.How == Soon) != (e.ID > 2) {
			t.Errorf("%+v: killed are those that permitted c and more", e)
		}
	}
	if got := ids(p); !slices.Equal(got, []int{3, 4, 5, 6}) {
		t.Errorf("ends %v, want [3 4 5 6]", got)
	}
}

// TestFullOnesAreBounded: of the processes that were replaced because clients held all their slots, the oldest end.
func TestFullOnesAreBounded(t *testing.T) {
	addr := netip.MustParseAddr("10.137.0.9")
	var all []Generation
	for i := range 5 {
		p := *allow(addr, "a")
		p.Restarts = i
		all = append(all, Generation{ID: i + 1, Policy: policy.Sealed(p), Port: uint16(i + 1), Ready: true, Full: i != 1, Clients: 2,
			Retired: t0.Add(-time.Minute)})
	}
	all[4].Retired, all[4].Full = time.Time{}, false
	want := []*Desired{{Name: "x", Addr: addr, Vifs: []string{"vif1.0"}, Links: []int32{3}, Bind: gateway, Policy: all[4].Policy}}
	for most, expected := range map[int]string{3: "[]", 2: "[1]", 1: "[3 1]"} {
		p := Of(want, []*Actual{{Addr: addr, Generations: all}}, t0, Limits{Drain: time.Hour, Generations: 9, Full: most})
		var ended []int
		for _, e := range p.End {
			ended = append(ended, e.ID)
			if e.How != Gently {
				t.Errorf("%+v", e)
			}
		}
		if got := fmt.Sprint(ended); got != expected {
			t.Errorf("of three, %d may stay: ends %s, want %s", most, got, expected)
		}
	}
}
