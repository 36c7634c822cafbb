package mailbox

import (
	"context"
	"errors"
)

// ErrClosed is the error of who asks a loop that has ended.
var ErrClosed = errors.New("vifproxyd is stopping")

// Ask makes the loop call question, and returns its answer.
func Ask[L, T any](ctx context.Context, b *Box[L], question func(L) (T, error)) (T, error) {
	return AskLater(ctx, b, func(l L, reply func(T, error)) { reply(question(l)) })
}

// AskLater makes the loop call question, which calls reply once, now or later. It returns what reply got.
func AskLater[L, T any](ctx context.Context, b *Box[L], question func(l L, reply func(T, error))) (answer T, err error) {
	type result struct {
		answer T
		err    error
	}
	replies := make(chan result, 1)
	b.Post(func(l L) { question(l, func(answer T, err error) { replies <- result{answer, err} }) })
	select {
	case r := <-replies:
		return r.answer, r.err
	case <-ctx.Done():
		return answer, ctx.Err()
	case <-b.Done():
		return answer, ErrClosed
	}
}
