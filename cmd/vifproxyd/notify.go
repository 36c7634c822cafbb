package main

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// A notifier sends the state of the daemon to systemd (sd_notify(3)), in order. It has a goroutine of its own, because the socket is one
// of datagrams, and sending to a full one waits. Of several waiting states of the same variable it sends the last one only.
type notifier struct {
	send func(state string)

	mu      sync.Mutex
	waiting []string
	alive   time.Time // when it was last told that the loop goes round
	closed  bool
	wake    chan struct{} // capacity 1
	done    chan struct{} // closed when all is sent, after close
}

// aliveInterval is the time between two signs of life, at least: the loop gives one with every round, and systemd wakes up for each.
const aliveInterval = time.Second

// stateMax is how many bytes a state has. systemd throws a longer one away, and tells nobody but its own log (NOTIFY_BUFFER_MAX,
// manager_dispatch_notify_fd in src/core/manager.c of systemd 252; findings/long-notification-is-lost.sh).
const stateMax = 4096

func newNotifier(send func(state string)) *notifier {
	n := &notifier{send: send, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go n.run()
	return n
}

// toSystemd sends one state.
func toSystemd(state string) { daemon.SdNotify(false, state) } //nolint:errcheck // there is nobody to tell

// notify queues a state, of which the end is cut off if it is too long. It never waits.
func (n *notifier) notify(state string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if state == "WATCHDOG=1" {
		now := time.Now()
		if now.Sub(n.alive) < aliveInterval {
			return
		}
		n.alive = now
	}
	const cutOff = "…"
	if len(state) > stateMax {
		state = strings.ToValidUTF8(state[:stateMax-len(cutOff)], "") + cutOff
	}
	variable, _, _ := strings.Cut(state, "=")
	n.waiting = slices.DeleteFunc(n.waiting, func(old string) bool { return strings.HasPrefix(old, variable+"=") })
	n.waiting = append(n.waiting, state)
	n.poke()
}

// close sends what is still waiting, for at most this time.
func (n *notifier) close(timeout time.Duration) {
	n.mu.Lock()
	n.closed = true
	n.poke()
	n.mu.Unlock()
	select {
	case <-n.done:
	case <-time.After(timeout):
	}
}

func (n *notifier) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *notifier) run() {
	defer close(n.done)
	for {
		n.mu.Lock()
		states, closed := n.waiting, n.closed
		n.waiting = nil
		n.mu.Unlock()
		for _, state := range states {
			n.send(state)
		}
		if len(states) > 0 {
			continue
		}
		if closed {
			return
		}
		<-n.wake
	}
}
