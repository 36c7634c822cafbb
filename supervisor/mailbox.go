package supervisor

import "vifproxy/internal/mailbox"

// A box is how other goroutines reach the loop.
type box = mailbox.Box[*loop]

// beside has work done by another goroutine, which Run waits for, and the loop take in what comes of it.
func beside[T any](l *loop, work func() T, then func(*loop, T)) {
	mail := l.mail
	l.running.Go(func() {
		result := work()
		mail.Post(func(l *loop) { then(l, result) })
	})
}
