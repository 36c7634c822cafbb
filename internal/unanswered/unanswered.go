// Package unanswered asks what may never answer, such as the file system of a network, and leaves it alone until it has.
//
// Concurrency: a [Questions] may be used from any goroutine.
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
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.about[about] {
		return answer, false
	}
	if q.about == nil {
		q.about = map[string]bool{}
	}
	q.about[about] = true
	done := make(chan T, 1)
	go func() {
		answer := f()
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.about, about)
		done <- answer
	}()
	q.mu.Unlock()
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case answer = <-done:
		ok = true
	case <-timer.C:
	}
	q.mu.Lock()
	return answer, ok
}

// Open returns how many questions wait.
func (q *Questions) Open() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.about)
}
