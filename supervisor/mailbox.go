package supervisor

import (
	"context"
	"errors"
	"sync"

	"vifproxy/control"
)

var errStopping = errors.New("vifproxyd is stopping")

// A mailbox is how goroutines reach the loop: with a reason to look again, or with a letter.
type mailbox struct {
	*waker
	done chan struct{} // closed when nobody reads letters any more

	mu      sync.Mutex
	letters []func(*loop)
}

func newMailbox() *mailbox { return &mailbox{waker: newWaker(), done: make(chan struct{})} }

// post has the loop call letter with itself.
func (m *mailbox) post(letter func(*loop)) {
	m.mu.Lock()
	m.letters = append(m.letters, letter)
	m.mu.Unlock()
	m.wake(Mail)
}

// read returns the letters that have come since the last call.
func (m *mailbox) read() []func(*loop) {
	m.mu.Lock()
	defer m.mu.Unlock()
	letters := m.letters
	m.letters = nil
	return letters
}

// answer is what the loop says to a verb.
type answer struct {
	status control.Status
	err    error
}

// ask has the loop call question, and waits for the one answer.
func (m *mailbox) ask(ctx context.Context, question func(*loop, chan<- answer)) (control.Status, error) {
	reply := make(chan answer, 1)
	m.post(func(l *loop) { question(l, reply) })
	select {
	case a := <-reply:
		return a.status, a.err
	case <-ctx.Done():
		return control.Status{}, ctx.Err()
	case <-m.done:
		return control.Status{}, errStopping
	}
}

// beside has work done by another goroutine, which Run waits for, and the loop take in what comes of it.
func beside[T any](l *loop, work func() T, then func(*loop, T)) {
	mail := l.mailbox
	l.running.Go(func() {
		result := work()
		mail.post(func(l *loop) { then(l, result) })
	})
}
