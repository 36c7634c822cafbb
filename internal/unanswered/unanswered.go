// Package unanswered asks what may never answer, such as the file system of a network, and leaves it alone until it has.
//
// Concurrency: a [Questions] and a [Timer] may be used from any goroutine.
package unanswered

import (
	"sync"
	"time"
)

// Questions are those that wait for an answer. The zero value is ready.
type Questions struct {
	mu    sync.Mutex
	about map[string]bool
}

// Ask calls f, which asks about something, for example the file at a path. If that has not answered within most, or has not answered an
// earlier question yet, Ask reports false. f goes on in a goroutine of its own.
func Ask[T any](q *Questions, about string, most time.Duration, f func() T) (answer T, ok bool) {
	answer, ok = All(q, []string{about}, most, func(string) T { return f() })[about]
	return answer, ok
}

// InTurn is Ask for what several may ask about at once. It waits for an earlier question too, for most.
func InTurn[T any](q *Questions, about string, most time.Duration, f func() T) (answer T, ok bool) {
	over := make(chan struct{})
	defer AfterFunc(most, func() { close(over) }).Stop()
	for {
		if answer, ok = Ask(q, about, most, f); ok {
			return answer, ok
		}
		select {
		case <-over:
			return answer, false
		case <-time.After(time.Millisecond):
		}
	}
}

// All calls f for one thing after another, as [Ask] does, and returns the answers of those that are in time. One goroutine asks about all
// of them, as long as none is late: one for each would be a quarter of what it costs to read small files.
func All[T any](q *Questions, about []string, most time.Duration, f func(about string) T) map[string]T {
	b := &batch[T]{questions: q, about: about, f: f, answers: make(map[string]T, len(about)), done: make(chan struct{})}
	go b.ask(0)
	tick := time.NewTicker(most / steps)
	defer tick.Stop()
	for {
		select {
		case <-b.done:
			return b.answers
		case <-tick.C:
			b.hurry()
		}
	}
}

// A batch is what one call of All asks.
type batch[T any] struct {
	questions *Questions
	about     []string
	f         func(string) T
	done      chan struct{} // closed when no question is left

	// The lock of the questions guards the fields below, until done is closed.
	turn    int // of its goroutines, the one that asks; those before wait for what was late
	next    int // what it asks about next
	waited  int // steps since it asked last
	answers map[string]T
}

// ask asks as long as it is its turn.
func (b *batch[T]) ask(turn int) {
	q := b.questions
	q.mu.Lock()
	defer q.mu.Unlock()
	for b.turn == turn {
		if b.next == len(b.about) {
			close(b.done)
			return
		}
		about := b.about[b.next]
		b.next++
		b.waited = 0
		if q.about[about] {
			continue
		}
		if q.about == nil {
			q.about = map[string]bool{}
		}
		q.about[about] = true
		q.mu.Unlock()
		answer := b.f(about)
		q.mu.Lock()
		delete(q.about, about)
		if b.turn == turn {
			b.answers[about] = answer
		}
	}
}

// hurry notes that one more step is over. It gives the turn to another goroutine if that was the last one for what is asked about.
func (b *batch[T]) hurry() {
	b.questions.mu.Lock()
	defer b.questions.mu.Unlock()
	select {
	case <-b.done:
		return
	default:
	}
	if b.waited++; b.waited > steps { // the first one was not whole
		b.turn++
		b.waited = 0
		go b.ask(b.turn)
	}
}

// Open returns how many questions wait.
func (q *Questions) Open() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.about)
}
