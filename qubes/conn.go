// Package qubes reads what dom0 has decided for this VM, in QubesDB: lists that were set as features of this VM, the firewall settings of
// the AppVMs below it, and the gateways that dom0 shows to them. It speaks the local protocol of qubesdb-daemon (include/qubesdb.h of
// qubes-core-qubesdb 4.3), at the socket that permits reading only, and runs no program.
//
// A watch is a hint: it says that something has changed, and all of it is read again. What somebody is writing is not believed, see
// [Source].
//
// Concurrency: the methods of a Source may be called from any goroutine.
package qubes

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Socket is where qubesdb-daemon answers everybody who may only read.
const Socket = "/var/run/qubes/qubesdb.ro.sock"

const (
	readTimeout = time.Second // of one reading; less than a reading of all lists may take (rules.Reader)

	entriesMax = 10_000 // in one answer: 40 for each of 250 AppVMs
)

// Kinds of messages (enum qdb_msg).
const (
	cmdRead       = 0
	cmdMultiread  = 2
	cmdWatch      = 5
	answerOK      = 7
	answerNone    = 8  // QDB_RESP_ERROR_NOENT
	answerOne     = 10 // QDB_RESP_READ
	answerMany    = 11 // QDB_RESP_MULTIREAD
	answerWatched = 13 // QDB_RESP_WATCH
)

const (
	pathSize   = 64   // QDB_MAX_PATH, with the NUL that ends it
	valueMax   = 3072 // QDB_MAX_DATA; a value is shorter
	headerSize = 72   // struct qdb_hdr: 1 byte for the kind, the path, 3 bytes for alignment, 4 for the length of the data
	sizeAt     = 68
)

// ErrProtocol is in the error of a conversation in which the other side says what qubesdb-daemon does not say.
var ErrProtocol = errors.New("not the protocol of QubesDB")

var errSilent = fmt.Errorf("it does not answer within %v", readTimeout)

// A message is one answer.
type message struct {
	kind  byte
	path  string
	value string
}

// A conn is a conversation with qubesdb-daemon.
type conn struct {
	net.Conn
	from *bufio.Reader
}

// dial begins a conversation, which ends with ctx.
func dial(ctx context.Context, socket string) (c *conn, hangUp func(), err error) {
	var d net.Dialer
	to, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, nil, fmt.Errorf("ask QubesDB: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { to.Close() })
	return &conn{to, bufio.NewReader(to)}, func() { stop(); to.Close() }, nil
}

// send asks for something at a path.
func (c *conn) send(kind byte, path string) error {
	if len(path) >= pathSize {
		return fmt.Errorf("ask QubesDB for %s: a path has %d bytes at most", path, pathSize-1)
	}
	header := make([]byte, headerSize)
	header[0] = kind
	copy(header[1:], path)
	_, err := c.Write(header)
	return err
}

// receive returns the next answer. A path ends at its first NUL; behind it, the last answer of a list has the rest of the path before.
func (c *conn) receive() (message, error) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(c.from, header); err != nil {
		return message{}, err
	}
	path, _, ended := strings.Cut(string(header[1:1+pathSize]), "\x00")
	size := binary.NativeEndian.Uint32(header[sizeAt:])
	if !ended || size >= valueMax {
		return message{}, ErrProtocol
	}
	value := make([]byte, size)
	if _, err := io.ReadFull(c.from, value); err != nil {
		return message{}, err
	}
	return message{header[0], path, string(value)}, nil
}

// dump returns all entries whose paths begin with prefix. An error means that nothing is known.
func dump(ctx context.Context, socket, prefix string) (entries map[string]string, err error) {
	c, hangUp, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	defer hangUp()
	entries, err = c.dump(prefix)
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = errSilent
		}
		return nil, fmt.Errorf("read %s from QubesDB: %w", prefix, err)
	}
	return entries, nil
}

func (c *conn) dump(prefix string) (map[string]string, error) {
	if err := c.send(cmdMultiread, prefix); err != nil {
		return nil, err
	}
	entries := map[string]string{}
	for {
		m, err := c.receive()
		switch {
		case err != nil:
			return nil, err
		case m.kind == answerWatched: // may come in the middle of anything
		case m.kind != answerMany:
			return nil, fmt.Errorf("%w: an answer of kind %d", ErrProtocol, m.kind)
		case m.path == "" && m.value == "":
			return entries, nil
		case !strings.HasPrefix(m.path, prefix):
			return nil, fmt.Errorf("%w: %q, which nobody has asked for", ErrProtocol, m.path)
		case len(entries) == entriesMax:
			return nil, fmt.Errorf("more than %d entries", entriesMax)
		default:
			entries[m.path] = m.value
		}
	}
}
