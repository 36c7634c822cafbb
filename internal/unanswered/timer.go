package unanswered

import (
	"sync"
	"time"
)

// steps is into how many parts each time here is divided. A part counts once, however late its end is noticed. So if a machine is so busy
// that this process stands still for a while, it is not the file system that is taken for the cause.
const steps = 20

// A Timer is a [time.Timer] for what may never answer.
type Timer struct {
	mu    sync.Mutex
	timer *time.Timer
	left  int // steps; 0: f is called, or the Timer was stopped
}

// AfterFunc calls f in a goroutine of its own after d. The time in which this process stands still does not count, apart from a twentieth of d.
func AfterFunc(d time.Duration, f func()) *Timer {
	t := &Timer{left: steps}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = time.AfterFunc(d/steps, func() {
		if t.step(d / steps) {
			f()
		}
	})
	return t
}

// step reports whether the last step is over. If not, the next one begins.
func (t *Timer) step(d time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left == 0 {
		return false
	}
	if t.left--; t.left > 0 {
		t.timer.Reset(d)
	}
	return t.left == 0
}

// Stop reports whether it has prevented the call, as [time.Timer.Stop] does.
func (t *Timer) Stop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	prevented := t.left > 0
	t.left = 0
	t.timer.Stop()
	return prevented
}

// Closed reports whether a channel is closed within d.
func Closed(done <-chan struct{}, d time.Duration) bool {
	over := make(chan struct{})
	defer AfterFunc(d, func() { close(over) }).Stop()
	select {
	case <-done:
		return true
	case <-over:
		return false
	}
}
