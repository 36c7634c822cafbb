package supervisor

import (
	"context"
	"errors"

	"vifproxy/internal/mailbox"
)

var errStopping = errors.New("vifproxyd is stopping")

// A box is how other goroutines reach the loop.
type box = mailbox.Box[*loop]

// ask makes the loop call question, and returns its answer.
func ask[T any](ctx context.Context, mail *box, question func(*loop) (T, error)) (T, error) {
	return askLater(ctx, mail, func(l *loop, reply func(T, error)) { reply(question(l)) })
}

// askLater makes the loop call question, which calls reply once, now or later. It returns what reply got.
func askLater[T any](ctx context.Context, mail *box, question func(l *loop, reply func(T, error))) (answer T, err error) {
	type result struct {
		answer T
		err    error
	}
	replies := make(chan result, 1)
	mail.Post(func(l *loop) { question(l, func(answer T, err error) { replies <- result{answer, err} }) })
	select {
	case r := <-replies:
		return r.answer, r.err
	case <-ctx.Done():
		return answer, ctx.Err()
	case <-mail.Done():
		return answer, errStopping
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
