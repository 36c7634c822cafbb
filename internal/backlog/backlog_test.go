package backlog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const messagesMax, bytesMax = 1000, 1 << 20

// reader takes messages, as long as it works.
type reader struct {
	mu   sync.Mutex
	gate chan struct{} // closed: it reads
	err  error
	got  []string
	said []string // problems
}

func newReader() (*reader, *Queue) {
	r := &reader{gate: make(chan struct{})}
	close(r.gate)
	q := New(messagesMax, bytesMax, func(n int) error { return r.take(fmt.Sprintf("%d lost", n)) })
	q.OnChange(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.said = append(r.said, fmt.Sprint(q.Problem()))
	})
	return r, q
}

func (r *reader) take(text string) error {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	<-gate
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.got = append(r.got, text)
	}
	return r.err
}

func (r *reader) put(q *Queue, urgent bool, text string) {
	q.Put(len(text), urgent, func() error { return r.take(text) })
}

func (r *reader) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// Several messages that come at once are lost at once, and each counts.
func TestSeveralAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, q := newReader()
		r.set(func() { r.gate = make(chan struct{}) })
		r.put(q, false, "first")
		synctest.Wait()
		r.put(q, false, "second")
		q.PutSeveral(7, bytesMax, func() error { return r.take("too much") })
		close(r.gate)
		synctest.Wait()
		r.set(func() { r.err = errors.New("broken") })
		q.PutSeveral(5, 1, func() error { return r.take("failed") })
		synctest.Wait()
		r.set(func() { r.err = nil })
		q.PutSeveral(2, 1, func() error { return r.take("last") })
		synctest.Wait()
		if want := []string{"first", "second", "7 lost", "5 lost", "last"}; !reflect.DeepEqual(r.got, want) {
			t.Errorf("%q, want %q", r.got, want)
		}
		q.Close(time.Second)
	})
}

func TestWhatNobodyReadsIsCountedAndDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, q := newReader()
		r.set(func() { r.gate = make(chan struct{}) })
		const sent = 3 * messagesMax
		for i := range sent {
			r.put(q, false, fmt.Sprint(i))
			synctest.Wait()
		}
		r.put(q, true, "urgent")
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(r.said) != 2 || !strings.Contains(r.said[1], "taken nothing") {
			t.Errorf("said meanwhile: %q", r.said)
		}
		close(r.gate)
		synctest.Wait()
		n := len(r.got) - 2
		if n > messagesMax || r.got[n] != fmt.Sprintf("%d lost", sent-n) || r.got[n+1] != "urgent" {
			t.Errorf("%d read, then %q", n, r.got[n:])
		}
		for i := range n {
			if r.got[i] != fmt.Sprint(i) {
				t.Fatalf("message %d is %s", i, r.got[i])
			}
		}
		if !reflect.DeepEqual(r.said[2:], []string{"<nil>"}) {
			t.Errorf("said: %q", r.said)
		}
		q.Close(time.Second)
	})
}

// TestWhatIsLostIsSaidWithoutMore: the line comes although nobody has anything to say after it.
func TestWhatIsLostIsSaidWithoutMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, q := newReader()
		r.set(func() { r.gate = make(chan struct{}) })
		r.put(q, false, "first")
		synctest.Wait()
		r.put(q, false, strings.Repeat("x", bytesMax)) // nothing waits: there is room for one of any size
		r.put(q, true, "second")
		close(r.gate)
		synctest.Wait()
		if len(r.got) != 3 || r.got[0] != "first" || r.got[2] != "1 lost" {
			t.Errorf("%.20q", r.got)
		}
		q.Close(time.Second)
	})
}

func TestWhatFailsIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, q := newReader()
		r.set(func() { r.err = errors.New("broken pipe") })
		r.put(q, false, "1")
		r.put(q, false, "2")
		synctest.Wait()
		r.set(func() { r.err = nil })
		r.put(q, false, "3")
		synctest.Wait()
		if !reflect.DeepEqual(r.got, []string{"2 lost", "3"}) || !reflect.DeepEqual(r.said[1:], []string{"broken pipe", "<nil>"}) {
			t.Errorf("%q, said %q", r.got, r.said)
		}
		q.Close(time.Second)
	})
}

// TestAReaderThatFailedIsTriedAgain: that it works again is known although nobody has anything to say.
func TestAReaderThatFailedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, q := newReader()
		r.set(func() { r.err = errors.New("no space left on device") })
		r.put(q, false, "1")
		time.Sleep(3 * retryInterval)
		r.set(func() { r.err = nil })
		time.Sleep(retryInterval + time.Second)
		r.set(func() {
			if !reflect.DeepEqual(r.got, []string{"1 lost"}) || q.Problem() != nil {
				t.Errorf("%q, problem %v", r.got, q.Problem())
			}
			r.err = errors.New("no space left on device")
		})
		r.put(q, false, "2")
		synctest.Wait()
		q.Abandon()
		<-q.Done()
		r.set(func() { r.err = nil })
		time.Sleep(time.Minute)
		r.set(func() {
			if len(r.got) != 1 {
				t.Errorf("after the end: %q", r.got)
			}
		})
	})
}

func TestTheEndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, q := newReader()
		r.set(func() { r.gate = make(chan struct{}) })
		r.put(q, false, "1")
		r.put(q, true, "the end")
		begin := time.Now()
		q.Close(time.Second)
		if took := time.Since(begin); took != time.Second {
			t.Errorf("it took %v", took)
		}
		close(r.gate)
		q.Close(time.Second)
		if !reflect.DeepEqual(r.got, []string{"1", "the end"}) {
			t.Errorf("%q", r.got)
		}
	})
}

// TestAFullPipe is the real thing.
func TestAFullPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	write := func(text string) error { _, err := w.WriteString(text); return err }
	q := New(messagesMax, bytesMax, func(n int) error { return write("lost\n") })
	for range 10_000 { // who waits here for a reader waits forever
		q.Put(100, false, func() error { return write(strings.Repeat("x", 99) + "\n") })
	}
	go func() {
		q.Close(time.Hour) // when all is passed on
		w.Close()
	}()
	text, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(text), "lost\n") {
		t.Errorf("%d bytes, %v: nothing says that some are lost", len(text), err)
	}
}
