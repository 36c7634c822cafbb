package supervisor

import (
	"testing"
	"time"
)

func TestAgenda(t *testing.T) {
	var a agenda
	now := time.Now()
	limit := now.Add(time.Hour)
	if next := a.next(limit); next != limit {
		t.Errorf("an empty agenda is due at %v", next)
	}
	a.by(dueRules, now.Add(2*time.Second))
	a.by(dueRules, now.Add(3*time.Second)) // later than what is there
	a.by(dueLinks, now.Add(time.Second))
	a.by(dueLinks, time.Time{})
	if next := a.next(limit); next != now.Add(time.Second) {
		t.Errorf("next is %v", next.Sub(now))
	}
	if a.take(dueRules, now) || !a.has(dueRules) {
		t.Error("taken before its time")
	}
	then := now.Add(2 * time.Second)
	if !a.isDue(then, dueCheck, dueRules) || a.isDue(then, dueCheck) {
		t.Error("due is not what the agenda says")
	}
	if !a.take(dueRules, then) || a.take(dueRules, then) || a.has(dueRules) {
		t.Error("a task is to be taken once")
	}
	if a.at(dueLinks, time.Time{}); a.has(dueLinks) {
		t.Error("the zero time does not take a task off")
	}
}
