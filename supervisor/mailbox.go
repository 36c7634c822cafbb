package supervisor

import (
	"context"
	"errors"

	"vifproxy/control"
	"vifproxy/internal/mailbox"
)

var errStopping = errors.New("vifproxyd is stopping")

// A box is how other goroutines reach the loop.
type box = mailbox.Box[*loop]

// answer is what the loop says to a verb.
type answer struct {
	status control.Status
	err    error
}

// ask has the loop call question, and waits for the one answer.
func (s *Supervisor) ask(ctx context.Context, question func(*loop, chan<- answer)) (control.Status, error) {
	reply := make(chan answer, 1)
	s.mail.Post(func(l *loop) { question(l, reply) })
	select {
	case a := <-reply:
		return a.status, a.err
	case <-ctx.Done():
		return control.Status{}, ctx.Err()
	case <-s.mail.Done():
		return control.Status{}, errStopping
	}
}

// beside has work done by another goroutine, which Run waits for, and the loop take in what comes of it.
func beside[T any](l *loop, work func() T, then func(*loop, T)) {
	mail := l.mail
	l.running.Go(func() {
		result := work()
		mail.Post(func(l *loop) { then(l, result) })
	})
}
