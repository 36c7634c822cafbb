package bench

import (
	"net"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// notes are what a daemon tells systemd. They must always be read: the queue is short, and whoever sends waits.
type notes struct {
	socket *net.UnixConn
	ended  chan struct{}
	mu     sync.Mutex
	all    []note
}

// note is a line, and when it came in microseconds of the monotonic clock.
type note struct {
	text string
	at   int64
}

func (n *notes) listen() {
	defer close(n.ended)
	for message := make([]byte, 4096); ; {
		size, err := n.socket.Read(message)
		if err != nil {
			return
		}
		var now unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail
		n.mu.Lock()
		for line := range strings.Lines(string(message[:size])) {
			if !strings.HasPrefix(line, "WATCHDOG=") { // with every round
				n.all = append(n.all, note{strings.TrimSpace(line), now.Nano() / 1000})
			}
		}
		n.mu.Unlock()
	}
}

// find returns the first line with a prefix since clear.
func (n *notes) find(prefix string) (note, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, line := range n.all {
		if strings.HasPrefix(line.text, prefix) {
			return line, true
		}
	}
	return note{}, false
}

func (n *notes) clear() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = nil
}
