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
	answer, ok = All(q, []string{about}, most, func(string) T { return f() }, nil)[about]
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

// atOnceMax is how many things All asks about at the same time, once one was late. Each that does not answer keeps a thread.
const atOnceMax = 64

// All calls f for one thing after another, as [Ask] does, and returns the answers of those that are in time. One goroutine asks about all
// of them, as long as none is late: one for each would be a quarter of what it costs to read small files. As soon as one is late, many
// ask at once, so that the times of those that are late do not add up.
//
// If more is not nil, All calls it with each answer, one at a time. It also asks about what more returns, each once.
func All[T any](q *Questions, about []string, most time.Duration, f func(about string) T, more func(about string, answer T) []string) map[string]T {
	b := &batch[T]{
		questions: q, about: about, f: f, more: more, asking: 1, answers: make(map[string]T, len(about)), done: make(chan struct{}),
	}
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
	f         func(string) T
	more      func(string, T) []string // may be nil
	done      chan struct{}            // closed when no question is left

	// The lock of the questions guards the fields below, until done is closed.
	about   []string
	known   map[string]bool // all that is in about; nil as long as nothing was added
	next    int             // what is asked about next
	turn    int             // how often something was late; goroutines of an earlier turn wait for that, and ask no more
	asking  int             // how many goroutines this turn has
	waited  int             // steps since one of them has asked, or had an answer
	answers map[string]T
}

// ask asks as long as it is its turn and a question is left.
func (b *batch[T]) ask(turn int) {
	q := b.questions
	q.mu.Lock()
	defer q.mu.Unlock()
	for b.turn == turn && b.next < len(b.about) {
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
			b.waited = 0
			b.answers[about] = answer
			b.add(about, answer)
		}
	}
	if b.turn != turn {
		return
	}
	if b.asking--; b.asking == 0 {
		close(b.done)
	}
}

// add adds what is to be asked about because of an answer.
func (b *batch[T]) add(about string, answer T) {
	if b.more == nil {
		return
	}
	more := b.more(about, answer)
	if len(more) > 0 && b.known == nil {
		b.known = map[string]bool{}
		for _, about := range b.about {
			b.known[about] = true
		}
	}
	for _, about := range more {
		if !b.known[about] {
			b.known[about] = true
			b.about = append(b.about, about)
		}
	}
	if b.turn > 0 {
		b.atOnce()
	}
}

// atOnce has more goroutines ask: one for each question that is left, and together no more than atOnceMax.
func (b *batch[T]) atOnce() {
	for range min(atOnceMax-b.asking, len(b.about)-b.next) {
		b.asking++
		go b.ask(b.turn)
	}
}

// hurry notes that one more step is over. If it was the last one, what is asked about is late, and others ask about the rest.
func (b *batch[T]) hurry() {
	b.questions.mu.Lock()
	defer b.questions.mu.Unlock()
	select {
	case <-b.done:
		return
	default:
	}
	if b.waited++; b.waited <= steps { // the first one was not whole
		return
	}
	b.turn++
	b.waited, b.asking = 0, 0
	if b.atOnce(); b.asking == 0 {
		close(b.done)
	}
}

// Open returns how many questions wait.
func (q *Questions) Open() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.about)
}
