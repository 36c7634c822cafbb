package plan

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"vifproxy/internal/backoff"
	"vifproxy/internal/policy"
)

// TestNoMistakeGivesBack: whatever comes in whatever order, if the list of now cannot be used, what serves is permitted by each list that
// was read since that of what serves, unless tinyproxy has refused it.
func TestNoMistakeGivesBack(t *testing.T) {
	reached := map[string]int{}
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 0))
		addr := netip.MustParseAddr("10.137.0.9")
		d := &Desired{Name: "x", Addr: addr, Vifs: []string{"vif1.0"}, Links: []int32{3}, Bind: gateway}
		a := &Actual{Addr: addr, Failures: backoff.Failures{}}
		var good Good
		var read []*policy.Policy
		refused := map[string]bool{} // by key, at some time
		journal, fenced := "", true
		for range 30 {
			switch n := r.IntN(9); {
			case n <= 1:
				var lines []string
				for _, line := range []string{"a", "b", "c", "refused"} {
					if r.IntN(2) == 0 {
						lines = append(lines, line)
					}
				}
				d.Policy, d.Err = allow(addr, lines...), nil
				read = append(read, d.Policy)
				journal += fmt.Sprintf("read %v\n", lines)
			case n == 2:
				fenced = !fenced
				journal += fmt.Sprintf("the fence stands: %t\n", fenced)
			case n <= 4:
				d.Policy, d.Err = nil, errors.New("a mistake")
				journal += "a mistake\n"
			default:
				i := slices.IndexFunc(a.Generations, func(g Generation) bool { return !g.Ready })
				if i < 0 {
					continue
				}
				g := &a.Generations[i]
				bad := strings.Contains(g.Policy.String(), "refused")
				journal += fmt.Sprintf("starts %v\n", g.Policy)
				if !bad && r.IntN(4) > 0 {
					g.Ready = true
					good.Came(g.Policy)
					break
				}
				refused[g.Policy.Key()] = refused[g.Policy.Key()] || bad
				a.Failures[g.Policy.Key()] = backoff.Failure{Err: errors.New("it does not start"), Bad: bad}
				a.Generations = slices.Delete(a.Generations, i, i+1)
			}
			good.Follow(Inputs{}, d, a.Failures, func(p *policy.Policy) bool {
				return slices.ContainsFunc(a.Generations, func(g Generation) bool { return g.Ready && g.Policy.Key() == p.Key() })
			}, nil)
			good.Prune(d, a.Failures)
			a.LastGood = good.Policy()
			p := ForOne(d, a, t0, limits)
			if !fenced {
				p = Unfenced([]*Actual{a})
			}
			a.Generations = slices.DeleteFunc(a.Generations, func(g Generation) bool {
				return slices.ContainsFunc(p.End, func(e End) bool { return e.ID == g.ID })
			})
			for _, start := range p.Start {
				a.Generations = append(a.Generations, Generation{ID: 1000 + len(journal) + len(a.Generations), Policy: start, Port: 1})
			}
			target := targetOf(d, a)
			if target == nil || d.Policy != nil && d.Policy.Key() == target.Key() {
				continue
			}
			reached["good rules of before"]++
			if good.unjudged != nil {
				reached["that nobody has judged yet"]++
			}
			since := len(read) - 1
			for ; since >= 0 && read[since].Key() != target.Key(); since-- {
			}
			for _, later := range read[since+1:] {
				if since < 0 || !refused[later.Key()] && !later.PermitsAll(target) {
					t.Fatalf("seed %d: %v serves, and %v was read since\n%s", seed, target, later, journal)
				}
			}
		}
	}
	if reached["good rules of before"] == 0 || reached["that nobody has judged yet"] == 0 {
		t.Errorf("reached: %v", reached)
	}
	t.Log(reached)
}
