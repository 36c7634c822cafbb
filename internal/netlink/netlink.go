// Package netlink sends requests to the kernel and reads its answers.
//
// It does what the libraries in go.mod do not: one Write for a batch of messages, one error for all of it; answers that
// are read in place, without a copy of each attribute; the flag that a dump was interrupted, also on the message that ends
// the dump (github.com/mdlayher/netlink 1.11.2 drops that message); and a socket that hears nobody but the kernel.
//
// Whatever the kernel would call malformed is an error, never a shorter list.
//
// Concurrency: a Conn is for one goroutine at a time. It works in the network namespace of the thread that dialed it.
package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is a connection to one family of netlink.
type Conn struct {
	// Socket takes one request with a Write, and gives a part of the answer with a Read. Tests put themselves in between.
	Socket io.ReadWriteCloser

	family   int
	options  []Option
	sequence uint32 // number of the last request; answers have it too
	request  []byte // room for a request with this number
	buf      *[answerSize]byte
}

// Dump is a request for a table; body is the structure that all its messages begin with, and attributes.
func Dump(kind uint16, body []byte) []byte { return Request(kind, unix.NLM_F_DUMP, body) }

// Request is one message with flags in addition to NLM_F_REQUEST; body is a structure, and attributes.
func Request(kind, flags uint16, body []byte) []byte {
	request := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	request = binary.NativeEndian.AppendUint16(request, kind)
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST|flags)
	return append(append(request, make([]byte, 8)...), body...) // sequence number and sender
}

// Option sets something on a new socket.
type Option func(fd int) error

// Message is one message of an answer.
type Message struct {
	Type, Flags uint16
	Body        []byte // it is overwritten by the next Read
}

const (
	// answerSize is the room for a part of an answer: the kernel sends 32 KiB at most (netlink_dump).
	answerSize = 64 << 10

	// answerTimeout ends the wait for an answer that never comes, as when the kernel runs out of memory for it. All
	// others are there when a request has been sent.
	answerTimeout = 10 * time.Second
)

// ErrInterrupted is the error of a dump whose table changed meanwhile: the answer is complete but for what moved.
var ErrInterrupted = errors.New("the table changed while it was read")

// ErrEnough ends an Exchange early if the caller returns it.
var ErrEnough = errors.New("no more of the answer is needed")

var buffers = sync.Pool{New: func() any { return new([answerSize]byte) }}

// Dial connects to a family, such as unix.NETLINK_ROUTE.
func Dial(family int, options ...Option) (*Conn, error) {
	socket, err := open(family, options)
	if err != nil {
		return nil, err
	}
	return &Conn{Socket: socket, family: family, options: options}, nil
}

func open(family int, options []Option) (io.ReadWriteCloser, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "netlink")
	for _, set := range options {
		if err = set(fd); err != nil {
			break
		}
	}
	if err == nil {
		timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	}
	if err == nil { // so that nobody but the kernel can send it anything (netlink_getsockbyportid)
		err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("connect netlink socket: %w", err)
	}
	return file, nil
}

// Control calls f with the socket, for what is asked of that and not by messages.
func (c *Conn) Control(f func(fd uintptr)) error {
	socket, ok := c.Socket.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(f)
}

// Close closes the connection.
func (c *Conn) Close() error {
	if c.buf != nil {
		buffers.Put(c.buf)
		c.buf = nil
	}
	return c.Socket.Close()
}

// Exchange sends a request, which is one message or a batch, and calls each for every message of the answer. If each
// returns an error, Exchange returns it and reads no more. After ErrEnough it does not read on but dials
// again, and returns nil.
//
// An errno of the kernel is returned as it is. After any other error the connection is of no use any more.
func (c *Conn) Exchange(request []byte, each func(Message) error) error {
	if c.buf == nil {
		c.buf = buffers.Get().(*[answerSize]byte)
	}
	c.sequence++
	numbered := append(c.request[:0], request...)
	if len(numbered) <= answerSize { // a large batch is rare
		c.request = numbered
	}
	for m := numbered; len(m) > 0; m = m[binary.NativeEndian.Uint32(m):] {
		binary.NativeEndian.PutUint32(m[8:], c.sequence)
	}
	if _, err := c.Socket.Write(numbered); err != nil {
		return err
	}
	dump := binary.NativeEndian.Uint16(request[6:])&unix.NLM_F_DUMP == unix.NLM_F_DUMP
	for interrupted := false; ; {
		n, err := c.Socket.Read(c.buf[:])
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrMalformed
		}
		for b := c.buf[:n]; len(b) > 0; {
			m, sequence, rest, err := cut(b)
			if err != nil {
				return err
			}
			if b = rest; len(m.Body) < 4 { // all begin with an errno, or a structure
				return ErrMalformed
			}
			if sequence != c.sequence {
				return fmt.Errorf("netlink message out of place: number %d instead of %d", sequence, c.sequence)
			}
			interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if errno := -int32(binary.NativeEndian.Uint32(m.Body)); errno != 0 {
					return unix.Errno(errno)
				}
				if interrupted {
					return ErrInterrupted
				}
				return nil
			}
			if err := each(m); errors.Is(err, ErrEnough) {
				return c.again()
			} else if err != nil {
				return err
			}
			if !dump && m.Flags&unix.NLM_F_MULTI == 0 {
				return nil
			}
		}
	}
}

// again gives up an answer that is under way.
func (c *Conn) again() error {
	fresh, err := open(c.family, c.options)
	if err != nil {
		return err
	}
	_ = c.Socket.Close()
	c.Socket = fresh
	return nil
}

// cut splits off the first message of b.
func cut(b []byte) (m Message, sequence uint32, rest []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return m, 0, nil, ErrMalformed
	}
	size := binary.NativeEndian.Uint32(b)
	if size < unix.SizeofNlMsghdr || uint64(size) > uint64(len(b)) {
		return m, 0, nil, ErrMalformed
	}
	m = Message{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), b[unix.SizeofNlMsghdr:size]}
	return m, binary.NativeEndian.Uint32(b[8:]), b[min(int(size+3)&^3, len(b)):], nil
}
