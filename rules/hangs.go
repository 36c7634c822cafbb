package rules

import (
	"sync"
	"syscall"
	"time"

	"vifproxy/rules/flaws"
)

// fileTimeout is how long a Reader waits for one file. A link may lead to a file system that does not answer, and that is the trouble of
// those AppVMs alone whose list it is.
const fileTimeout = 500 * time.Millisecond

// hangs are the paths at which the file system has not answered yet. Nobody asks again before it has.
type hangs struct {
	mu    sync.Mutex
	paths map[string]bool
}

// ask calls f, which looks at the file at a path. If that hangs, ask reports false, and f goes on.
func ask[T any](h *hangs, path string, f func() T) (answer T, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.paths[path] {
		return answer, false
	}
	done := make(chan T, 1)
	h.paths[path] = true
	go func() {
		answer := f()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.paths, path)
		done <- answer
	}()
	h.mu.Unlock()
	timer := time.NewTimer(fileTimeout)
	defer timer.Stop()
	select {
	case answer = <-done:
		ok = true
	case <-timer.C:
	}
	h.mu.Lock()
	return answer, ok
}

// stamp is stampOf for a file system that may not answer.
func (h *hangs) stamp(path string) stamp {
	if s, ok := ask(h, path, func() stamp { return stampOf(path) }); ok {
		return s
	}
	return stamp{err: syscall.ETIMEDOUT}
}

func doesNotAnswer(path string) *Error {
	return &Error{Path: path, Unsettled: true, Flaw: flaws.Flaw{
		Text: "is on a file system that does not answer: what it said before stays in force", Remedy: "see where it leads"}}
}
