// Package backlog keeps messages between those who write them, and must not wait, and the world, which may not read: a log
// whose pipe is full, a journal that is stopped, a file on a dead file system.
package backlog

import (
	"fmt"
	"sync"
	"time"
)

const (
	// reserve is the part of a queue's room that is left to urgent messages, one in so many.
	reserve = 4
	// slow is how long one message may take until the reader counts as stuck.
	slow = 3 * time.Second
	// retryInterval is how long a queue with nothing to pass on waits until it tries a reader again that has failed.
	retryInterval = 5 * time.Second
)

// Queue passes messages on in their order, from one goroutine, which there is only while there are messages. When it is
// full, messages are counted and dropped; as soon as the reader works again, one message says how many. A reader that has
// failed is tried again with each message, and otherwise every 5 s. Safe for concurrent use.
type Queue struct {
	messagesMax, bytesMax int               // that wait
	lost                  func(n int) error // passes on that n messages are lost

	mu      sync.Mutex
	changed func()
	waiting []message
	bytes   int
	dropped int           // after the last of waiting
	full    bool          // drop until there is room again
	news    bool          // that some were dropped is to be said although nothing follows
	retry   *time.Timer   // sets failed; nil while none runs
	failed  bool          // the reader is to be tried again, with the news of what is lost
	running bool          // the goroutine
	passed  int           // the number of the last message that was passed on, or failed
	problem error         // what is wrong with the reader
	closed  bool          // takes nothing more
	done    chan struct{} // closed when it is closed and all is passed on

	unsaid int // lost, and not passed on; belongs to the goroutine
}

type message struct {
	count  int // of what it was when it was put
	size   int
	after  int  // how many were dropped before it
	again  bool // it is the news of what is lost, once more
	passOn func() error
	then   func() // instead
}

// New makes a Queue in which so many messages, and bytes of them, may wait. lost passes on that n messages are lost.
func New(messagesMax, bytesMax int, lost func(n int) error) *Queue {
	return &Queue{messagesMax: messagesMax, bytesMax: bytesMax, lost: lost, changed: func() {}, done: make(chan struct{})}
}

// OnChange has f called when Problem may return something else, from goroutines of the queue, and once now. f must not wait.
func (q *Queue) OnChange(f func()) {
	q.mu.Lock()
	q.changed = f
	q.mu.Unlock()
	f()
}

// Problem returns what is wrong with the reader; nil if nothing is.
func (q *Queue) Problem() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.problem
}

// Put leaves a message of size bytes to be passed on. It never waits. Part of the room is for urgent messages only.
func (q *Queue) Put(size int, urgent bool, passOn func() error) { q.put(1, size, urgent, passOn) }

// PutSeveral leaves several messages that are passed on at once, or lost.
func (q *Queue) PutSeveral(count, size int, passOn func() error) { q.put(count, size, false, passOn) }

func (q *Queue) put(count, size int, urgent bool, passOn func() error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	messages, bytes := q.messagesMax, q.bytesMax
	if !urgent {
		messages, bytes = messages-messages/reserve, bytes-bytes/reserve
	}
	fits := len(q.waiting) < messages && q.bytes+size <= bytes
	switch {
	case q.closed:
		return
	case len(q.waiting) > 0 && (!fits || q.full && !urgent):
		q.full, q.news = true, true
		q.dropped += count
		return
	}
	q.add(message{count: count, size: size, passOn: passOn})
}

// Then has f called when all is passed on that was put before, or is lost. There is always room for that, so callers have to
// see to it that they do not grow in number.
func (q *Queue) Then(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.add(message{then: f})
	}
}

// add is for who holds mu.
func (q *Queue) add(m message) {
	m.after, q.dropped, q.news = q.dropped, 0, false
	q.waiting = append(q.waiting, m)
	q.bytes += m.size
	q.start()
}

// Drop counts a message that its writer drops. The next one that is passed on says so.
func (q *Queue) Drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped++
}

// Close passes on what waits, for so long at most. What comes later is dropped.
func (q *Queue) Close(timeout time.Duration) {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		q.start()
	}
	q.mu.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-q.done:
	case <-timer.C:
	}
}

// Abandon drops what waits, without a word, and what comes later. It may be called by what the queue calls.
func (q *Queue) Abandon() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting, q.bytes, q.dropped, q.failed = nil, 0, 0, false
	if !q.closed {
		q.closed = true
		q.start()
	}
}

// Done is closed when Close or Abandon was called and nothing waits any more.
func (q *Queue) Done() <-chan struct{} { return q.done }

// start has the goroutine run. The caller holds mu.
func (q *Queue) start() {
	if !q.running {
		q.running = true
		go q.run()
	}
}

func (q *Queue) run() {
	for {
		m, ok := q.take()
		if !ok {
			return
		}
		q.pass(m)
	}
}

// take returns the next message, or, where nothing else waits, the news of those that were dropped. Otherwise the goroutine
// is over.
func (q *Queue) take() (m message, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case len(q.waiting) > 0:
		m, q.waiting = q.waiting[0], q.waiting[1:]
		q.bytes -= m.size
		if len(q.waiting) < q.messagesMax/2 && q.bytes < q.bytesMax/2 {
			q.full = false // not at the first message that finds room: news of what is lost would be every second one
		}
		return m, true
	case q.dropped > 0 && (q.news || q.closed):
		m.after, q.dropped, q.news, q.full = q.dropped, 0, false, false
		return m, true
	case q.failed:
		q.failed = false
		return message{again: true}, true
	}
	q.waiting, q.running, q.full = nil, false, false
	switch {
	case q.closed:
		close(q.done)
	case q.problem != nil && q.retry == nil:
		q.retry = time.AfterFunc(retryInterval, q.tryAgain)
	}
	return m, false
}

// tryAgain has the reader tried again: it may have nothing more to say what shows that it works.
func (q *Queue) tryAgain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.retry = nil
	if !q.closed && q.problem != nil {
		q.failed = true
		q.start()
	}
}

func (q *Queue) pass(m message) {
	id := q.passed + 1
	stuck := time.AfterFunc(slow, func() { q.note(id, false, fmt.Errorf("what reads it has taken nothing for %v", slow)) })
	err := q.tellLost(m.after)
	if m.passOn != nil {
		if err == nil {
			err = m.passOn()
		}
		if err != nil {
			q.unsaid += m.count
		}
	}
	stuck.Stop()
	if m.then != nil {
		m.then()
	}
	if m.passOn != nil || m.after > 0 || m.again {
		q.note(id, true, err)
	}
}

// tellLost passes on how many messages are lost, with those that were dropped now.
func (q *Queue) tellLost(dropped int) error {
	q.unsaid += dropped
	if q.unsaid == 0 {
		return nil
	}
	err := q.lost(q.unsaid)
	if err == nil {
		q.unsaid = 0
	}
	return err
}

// note tells of a change of what is wrong with the reader, as the message of that number shows it.
func (q *Queue) note(id int, over bool, problem error) {
	q.mu.Lock()
	if q.passed == id { // it went through just when it counted as stuck
		q.mu.Unlock()
		return
	}
	if over {
		q.passed = id
	}
	same := q.problem == problem || q.problem != nil && problem != nil && q.problem.Error() == problem.Error()
	q.problem = problem
	changed := q.changed
	q.mu.Unlock()
	if !same {
		changed()
	}
}
