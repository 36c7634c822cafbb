package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// OrderMax is how many bytes an order may have: a list, or all of hosts(5).
	OrderMax = 64 << 20
	// ReportMax is how many bytes a report may have.
	ReportMax = 64 << 10
	// keptMax is how large a buffer is kept for the next message.
	keptMax = 64 << 10
)

// A message is an [Order] or a [Report].
type message interface{ Order | Report }

// bounds returns how long a message may be, and what else it has to be.
func bounds[T message](m *T) (most int, valid error) {
	switch m := any(m).(type) {
	case *Order:
		return OrderMax, m.valid()
	case *Report:
		return ReportMax, m.valid()
	}
	panic("no message")
}

// An Encoder writes messages.
type Encoder[T message] struct {
	mu sync.Mutex
	w  io.Writer
}

// NewEncoder returns an encoder that writes to w.
func NewEncoder[T message](w io.Writer) *Encoder[T] { return &Encoder[T]{w: w} }

// Encode writes one message by one call of Write. It refuses what a [Decoder] would refuse.
func (e *Encoder[T]) Encode(m T) error {
	most, err := bounds(&m)
	if err != nil {
		return err
	}
	var line bytes.Buffer
	encoder := json.NewEncoder(&line) // it ends the line
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(m); err != nil {
		return err
	}
	if line.Len() > most {
		return errTooLong(most)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	_, err = e.w.Write(line.Bytes())
	return err
}

func errTooLong(most int) error { return fmt.Errorf("a message of more than %d bytes", most) }

// A Decoder reads messages.
type Decoder[T message] struct {
	r    *bufio.Reader
	line []byte
}

// NewDecoder returns a decoder that reads from r, with a buffer of its own.
func NewDecoder[T message](r io.Reader) *Decoder[T] { return &Decoder[T]{r: bufio.NewReader(r)} }

// Decode reads one message. It returns io.EOF if the stream has ended between two messages, and other errors if it has ended elsewhere,
// or if what came is no message.
func (d *Decoder[T]) Decode() (m T, err error) {
	most, _ := bounds(&m)
	if cap(d.line) > keptMax {
		d.line = nil
	}
	d.line = d.line[:0]
	for more := true; more; {
		part, err := d.r.ReadSlice('\n')
		if len(d.line)+len(part) > most {
			return m, errTooLong(most)
		}
		d.line = append(d.line, part...)
		switch more = errors.Is(err, bufio.ErrBufferFull); {
		case errors.Is(err, io.EOF) && len(d.line) > 0:
			return m, io.ErrUnexpectedEOF
		case err != nil && !more:
			return m, err
		}
	}
	decoder := json.NewDecoder(bytes.NewReader(d.line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		return m, fmt.Errorf("message: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return m, errors.New("message: more than one value in a line")
	}
	_, err = bounds(&m)
	return m, err
}
