package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/backoff"
	"vifproxy/internal/policy"
	"vifproxy/rules"
)

var pupil = netip.MustParseAddr("10.137.0.11")

func generation(id int, p *policy.Policy) Generation {
	return Generation{ID: id, Policy: p, Port: uint16(id), Socket: uint64(id), Ready: true}
}

// said is a plan in a line.
func said(p Plan) string {
	var all []string
	for _, b := range p.Bindings {
		all = append(all, fmt.Sprintf("bind %d", b.To.Port()))
	}
	for _, s := range p.Start {
		all = append(all, fmt.Sprintf("start %d lines", len(s.Rules)))
	}
	for _, e := range p.End {
		all = append(all, fmt.Sprintf("end %d %s", e.ID, [...]string{Gently: "gently", Soon: "soon", Now: "now"}[e.How]))
	}
	for _, id := range p.Retire {
		all = append(all, fmt.Sprintf("retire %d", id))
	}
	return strings.Join(all, ", ")
}

// During a lesson the list stands by. When it is over, the process of the lesson ends at once, whether or not the list is ready to serve.
func TestPlansOfLessons(t *testing.T) {
	list, changed := allow(pupil, `^a$`), allow(pupil, `^b$`, `^c$`)
	open, openChanged, other := list.Learning(1), changed.Learning(1), list.Learning(2)
	starting := generation(2, open)
	starting.Ready = false
	for name, test := range map[string]struct {
		list, learning *policy.Policy // that should be there
		gone           bool
		have           []Generation
		failed         *policy.Policy
		want           string
	}{
		"it begins":                     {list, open, false, []Generation{generation(1, list)}, nil, "bind 1, start 2 lines"},
		"its process starts":            {list, open, false, []Generation{generation(1, list), starting}, nil, "bind 1"},
		"its process listens":           {list, open, false, []Generation{generation(1, list), generation(2, open)}, nil, "bind 2"},
		"the list does not stand by":    {list, open, false, []Generation{generation(2, open)}, nil, "bind 2, start 1 lines"},
		"the list has changed":          {changed, openChanged, false, []Generation{generation(1, list), generation(2, open)}, nil, "bind 2, start 3 lines, start 2 lines, retire 1"},
		"both have followed":            {changed, openChanged, false, []Generation{generation(2, open), generation(3, changed), generation(4, openChanged)}, nil, "bind 4, retire 2"},
		"it is over":                    {list, nil, false, []Generation{generation(1, list), generation(2, open)}, nil, "bind 1, end 2 now"},
		"it is over before it listens":  {list, nil, false, []Generation{generation(1, list), starting}, nil, "bind 1, end 2 now"},
		"it is over without the list":   {list, nil, false, []Generation{generation(2, open)}, nil, "start 1 lines, end 2 now"},
		"it is over, and no list works": {list, nil, false, []Generation{generation(2, open)}, list, "end 2 now"},
		"the list became wrong":         {nil, nil, false, []Generation{generation(1, list), generation(2, open)}, nil, "bind 1, end 2 now"},
		"another one begins at once":    {list, other, false, []Generation{generation(1, list), generation(2, open)}, nil, "bind 1, start 2 lines, end 2 now"},
		"the AppVM has left":            {list, nil, true, []Generation{generation(1, list), generation(2, open)}, nil, "end 1 gently, end 2 now"},
	} {
		d := &Desired{Name: "pupil", Addr: pupil, Bind: gateway, Vifs: []string{"vif1.0"}, Links: []int32{1}, Policy: test.list, Learning: test.learning}
		if test.gone {
			d.Vifs, d.Links = nil, nil
		}
		a := &Actual{Addr: pupil, Generations: test.have, LastGood: list}
		if test.failed != nil {
			a.Failures = map[string]backoff.Failure{test.failed.Key(): {Err: errors.New("it fails"), Retry: t0.Add(time.Hour)}}
		}
		if got := said(ForOne(d, a, t0, limits)); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// A lesson ends for one reason, and is counted no more.
func TestLessons(t *testing.T) {
	d := &Desired{Name: "pupil", Addr: pupil, Vifs: []string{"vif1.0"}, Policy: allow(pupil, `^a$`)}
	var lessons Lessons
	var over []string
	begin := func(until time.Duration) *Lesson {
		t.Helper()
		lesson, why := lessons.Begin(d, until)
		if why != "" {
			t.Fatal(why)
		}
		lesson.Over = func(why string) { over = append(over, why) }
		d.Learning = d.Policy.Learning(lesson.ID)
		return lesson
	}
	first := begin(time.Minute)
	if _, why := lessons.Begin(d, time.Hour); !strings.Contains(why, "it learns already") {
		t.Errorf("a second one: %q", why)
	}
	if next, any := lessons.Expire(time.Minute - 1); next != time.Minute || any || lessons.Of(d.Identity()) != first {
		t.Errorf("before its time is over: %v, %t", next, any)
	}
	if next, any := lessons.Expire(time.Minute); next != 0 || !any {
		t.Errorf("when its time is over: %v, %t", next, any)
	}
	none := func(*policy.Policy) error { return nil }
	second := begin(time.Minute)
	lessons.End(first, "again")
	lessons.Settle([]*Desired{d}, none)
	if lessons.Of(d.Identity()) != second || second.ID == first.ID {
		t.Error("the second lesson has ended")
	}
	lessons.Settle([]*Desired{d}, func(*policy.Policy) error { return errors.New("it is dead") })
	for _, change := range []func(*Desired){
		func(d *Desired) { d.Held = true },
		func(d *Desired) { d.Vifs = nil },
		func(d *Desired) { d.Vifs = []string{"vif2.0"} },
		func(d *Desired) { d.Origin = rules.InRange },
		func(d *Desired) { d.Policy, d.Err = nil, errors.New("no host") },
		func(d *Desired) { d.Name = "other" },
	} {
		begin(time.Minute)
		changed := *d
		change(&changed)
		lessons.Settle([]*Desired{&changed}, none)
	}
	begin(time.Minute)
	lessons.Stop(d.Identity())
	lessons.Stop(d.Identity())
	for i, want := range []string{"its time is over", "it is dead", "it is stopped", "it is not connected", "it has connected again",
		"it has no list of its own", "its list is wrong: no host", "its list is gone", "it was ended"} {
		if i >= len(over) || !strings.Contains(over[i], want) {
			t.Errorf("reason %d of %q: want %q", i, over, want)
		}
	}
	if len(over) != 9 || slices.Contains(over, "again") {
		t.Errorf("reasons: %q", over)
	}
}
