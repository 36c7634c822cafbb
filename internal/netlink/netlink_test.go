package netlink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAttributes(t *testing.T) {
	b := AppendString(nil, 1, "one")
	b = AppendNested(b, 2, func(to []byte) []byte {
		return AppendNested(to, 3, func(to []byte) []byte { return Append(to, 4, 7, 8, 9) })
	})
	var d Decoder
	if got := d.Find(b, 1); string(got) != "one\x00" {
		t.Errorf("attribute 1: %q", got)
	}
	if got := d.Find(b, 2, 3, 4); !bytes.Equal(got, []byte{7, 8, 9}) {
		t.Errorf("attribute 2, 3, 4: %v", got)
	}
	if got := d.Find(b, 2, 5); got != nil || d.Err() != nil {
		t.Errorf("one that is not there: %v, %v", got, d.Err())
	}
	for name, spoilt := range map[string][]byte{
		"cut off":   b[:len(b)-1],
		"too short": {3, 0, 1, 0},
		"no length": {4, 0, 1},
	} {
		var d Decoder
		for range d.All(spoilt) {
			continue
		}
		if Check(spoilt) == nil || d.Err() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	d.Find(b[:len(b)-4], 2, 3, 4)
	if d.Err() == nil {
		t.Error("no error for an attribute that is longer than the one around it")
	}
}

// FuzzAttributes: what is read lies in what was given, and is malformed for all ways of reading or for none.
func FuzzAttributes(f *testing.F) {
	f.Add(AppendNested(AppendString(nil, 1, "one"), 2, func(to []byte) []byte { return Append(to, 1, 7) }))
	f.Add([]byte{3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Decoder
		size := 0
		var again []byte
		for kind, value := range d.All(b) {
			size += unix.SizeofNlAttr + len(value)
			again = Append(again, kind, value...)
		}
		if size > len(b) {
			t.Errorf("%d bytes of %d", size, len(b))
		}
		if (d.Err() == nil) != (Check(b) == nil) {
			t.Errorf("%v, %v", d.Err(), Check(b))
		}
		if Check(again) != nil {
			t.Errorf("%v is not read again", again)
		}
		d.Find(b, 1, 2, 1)
	})
}

// answering is a kernel that gives each request the same answer.
type answering struct {
	answer []byte
	asked  [][]byte
}

func (a *answering) Write(request []byte) (int, error) {
	a.asked = append(a.asked, slices.Clone(request))
	return len(request), nil
}
func (a *answering) Read(b []byte) (int, error) { return copy(b, a.answer), nil }
func (a *answering) Close() error               { return nil }

// FuzzAnswers: whatever an answer is, Exchange ends, and tells of no message that is not whole.
func FuzzAnswers(f *testing.F) {
	message := func(kind, flags uint16, body ...byte) []byte {
		m := Dump(kind, body)
		binary.NativeEndian.PutUint16(m[6:], flags)
		m[8] = 1
		return m
	}
	f.Add(slices.Concat(message(16, unix.NLM_F_MULTI, 1, 2, 3, 4), message(unix.NLMSG_DONE, unix.NLM_F_MULTI, 0, 0, 0, 0)))
	f.Add(message(unix.NLMSG_ERROR, 0, 0xea, 0xff, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, answer []byte) {
		c := Conn{Socket: &answering{answer: answer}}
		seen := 0
		err := c.Exchange(Dump(18, make([]byte, 4)), func(m Message) error {
			if seen++; len(m.Body) < 4 || seen > len(answer) {
				return errors.New("enough") // the same answer goes on forever
			}
			return nil
		})
		if len(answer) < unix.SizeofNlMsghdr+4 && err == nil {
			t.Errorf("no error for %v", answer)
		}
	})
}

// An interrupted dump is told of also if only its end says so.
func TestInterruptedAtItsEnd(t *testing.T) {
	end := Dump(unix.NLMSG_DONE, make([]byte, 4))
	binary.NativeEndian.PutUint16(end[6:], unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR)
	end[8] = 1
	kernel := &answering{answer: end}
	c := Conn{Socket: kernel}
	request := Dump(18, make([]byte, 4))
	if err := c.Exchange(request, func(Message) error { return nil }); !errors.Is(err, ErrInterrupted) {
		t.Errorf("error %v", err)
	}
	if request[8] != 0 || kernel.asked[0][8] != 1 {
		t.Error("the request is the caller's, and is sent with a number")
	}
}
