package tinyproxy

import (
	"bytes"
	"sync"
)

// A Tail keeps the first line and the last lines of a process, for the message about its end.
type Tail struct {
	mu    sync.Mutex
	began string
	last  [][]byte
}

// Add adds a line.
func (t *Tail) Add(line []byte) {
	const keep = 5
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.last) == 0 {
		t.began = string(line)
	}
	if len(t.last) < keep {
		t.last = append(t.last, bytes.Clone(line))
		return
	}
	oldest := t.last[0]
	copy(t.last, t.last[1:])
	t.last[keep-1] = append(oldest[:0], line...)
}

// First returns the first line.
func (t *Tail) First() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.began
}

// Lines returns the last lines.
func (t *Tail) Lines() (all []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, line := range t.last {
		all = append(all, string(line))
	}
	return all
}
