package ask

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	datagramMax = 4096            // bytes of an answer by UDP; a longer one is asked for by TCP
	streamMax   = 16 << 10        // bytes of an answer by TCP, which has room for 500 addresses
	streamTime  = 3 * time.Second // for an answer by TCP
	streamShort = time.Second     // the same, if some addresses have come by UDP
	wrongMax    = 100             // messages by UDP that are not the answer, until another port is taken
)

var errNoAnswer = errors.New("no answer")

// errUnheard says that an exchange has ended without an answer, and that nobody need be told.
var errUnheard = errors.New("nobody listens any more")

// An exchange asks one server once: by UDP, and by TCP if the answer does not fit.
type exchange struct {
	race   *race
	turn   int
	server *server
	nth    int // question to this server in this race, from 0
}

// run asks, and tells the race what came of it.
func (e exchange) run() {
	now := time.Now()
	edns := e.server.ask(now, e.nth)
	r, err := e.datagram(now, edns)
	if edns && err == nil && (r.rcode == dnsmessage.RCodeFormatError || r.rcode == dnsmessage.RCodeNotImplemented || r.rcode == badVersion) {
		now = time.Now()
		e.server.refuseEDNS(now)
		edns = false
		r, err = e.datagram(now, edns)
	}
	if err == nil && r.truncated && r.good() && len(r.Addrs) < AddrsMax {
		limit := streamTime
		if len(r.Addrs) > 0 { // what has come is true, and will do
			limit = streamShort
		}
		if whole, streamErr := e.stream(edns, limit); streamErr == nil {
			r = whole
		} else if len(r.Addrs) == 0 {
			r.fault = fmt.Errorf("its answer is too long for UDP, and by TCP: %w", plain(streamErr))
		}
	}
	r.server = e.server.addr
	if !errors.Is(err, errUnheard) {
		e.race.outcomes <- news{turn: e.turn, reply: &r, err: err}
	}
}

// datagram asks by UDP, from a port of its own. The kernel takes a random one for each socket (udp_lib_get_port in net/ipv4/udp.c of Linux
// 6.1), and gives a connected one what comes from the server's address and port only. What answers another question does not end the wait.
// The error is errUnheard if nobody waits for the answer any more, or somebody guesses numbers.
func (e exchange) datagram(asked time.Time, edns bool) (r reply, err error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(e.server.addr))
	if err != nil {
		return r, e.unreachable(asked, err)
	}
	defer conn.Close()
	id := newID()
	message, err := pack(id, e.race.question, edns)
	if err != nil {
		return r, err
	}
	if _, err := conn.Write(message); err != nil {
		return r, e.unreachable(asked, err)
	}
	conn.SetReadDeadline(asked.Add(silentAfter)) //nolint:errcheck // it is open
	buf := buffers.Get().(*[datagramMax]byte)
	defer buffers.Put(buf)
	var malformed error
	for silent, wrong := false, 0; wrong < wrongMax; wrong++ {
		n, _, flags, _, err := conn.ReadMsgUDPAddrPort(buf[:], nil)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && !silent:
			silent = true
			e.server.miss(asked, time.Now())
			e.race.outcomes <- news{turn: e.turn, silent: true, err: malformed}
			conn.SetReadDeadline(time.Time{}) //nolint:errcheck // it is open
			stop := context.AfterFunc(e.race.ctx, func() { conn.SetReadDeadline(time.Now()) })
			defer stop()
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			return r, errUnheard
		case err != nil:
			return r, e.unreachable(asked, err)
		}
		r, err = parse(buf[:n], id, e.race.question)
		if flags&syscall.MSG_TRUNC != 0 && !errors.Is(err, errOther) {
			r.truncated, err = true, nil
		}
		if errors.Is(err, errMalformed) {
			malformed = err
		}
		if err == nil {
			e.server.hear(asked, time.Now(), edns, !r.good())
			return r, nil
		}
	}
	return r, errUnheard
}

// buffers are for answers by UDP.
var buffers = sync.Pool{New: func() any { return new([datagramMax]byte) }}

// unreachable notes that the server cannot be asked, and returns why in plain words.
func (e exchange) unreachable(asked time.Time, err error) error {
	e.server.miss(asked, time.Now())
	return plain(err)
}

// plain returns what the kernel says, without what was tried.
func plain(err error) error {
	var number syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &number):
		return number
	case errors.As(err, &timeout) && timeout.Timeout():
		return errNoAnswer
	}
	return err
}

// stream asks by TCP, for a time.
func (e exchange) stream(edns bool, limit time.Duration) (r reply, err error) {
	ctx, cancel := context.WithTimeout(e.race.ctx, limit)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", e.server.addr.String())
	if err != nil {
		return r, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	id := newID()
	message, err := pack(id, e.race.question, edns)
	if err != nil {
		return r, err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)); err != nil {
		return r, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return r, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > streamMax {
		return r, errMalformed
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(conn, buf); err != nil {
		return r, err
	}
	r, err = parse(buf, id, e.race.question)
	if err == nil && r.truncated {
		err = errMalformed
	}
	return r, err
}

// newID returns a number that nobody can guess.
func newID() uint16 {
	var b [2]byte
	rand.Read(b[:]) //nolint:errcheck // it never fails
	return binary.BigEndian.Uint16(b[:])
}
