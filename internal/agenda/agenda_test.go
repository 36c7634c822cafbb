package agenda

import (
	"testing"
	"time"
)

func TestAgenda(t *testing.T) {
	var a Agenda
	now := time.Now()
	limit := now.Add(time.Hour)
	if next := a.Next(limit); next != limit {
		t.Errorf("an empty agenda is due at %v", next)
	}
	a.By(Rules, now.Add(2*time.Second))
	a.By(Rules, now.Add(3*time.Second)) // later than what is there
	a.By(Links, now.Add(time.Second))
	a.By(Links, time.Time{})
	if next := a.Next(limit); next != now.Add(time.Second) {
		t.Errorf("next is %v", next.Sub(now))
	}
	if a.Take(Rules, now) || !a.Has(Rules) {
		t.Error("taken before its time")
	}
	then := now.Add(2 * time.Second)
	if !a.IsDue(then, Check, Rules) || a.IsDue(then, Check) {
		t.Error("due is not what the agenda says")
	}
	if !a.Take(Rules, then) || a.Take(Rules, then) || a.Has(Rules) {
		t.Error("a task is to be taken once")
	}
	if a.At(Links, time.Time{}); a.Has(Links) {
		t.Error("the zero time does not take a task off")
	}
}
