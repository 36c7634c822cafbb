// Package sockdiag reads the table of IPv4 TCP sockets of this network namespace (sock_diag(7)).
//
// A look into the table makes no connection, so no process takes notice of it, and it names the owner of each socket.
//
// Concurrency: every function may be called from any goroutine. Each call opens a netlink socket of its own.
package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The library finds out the machine's byte order at its first use, without a lock: let that be now.
func init() { nl.NativeEndian() }

// States of a socket, include/net/tcp_states.h.
const (
	established = 1
	synRecv     = 3
	closeWait   = 8
	listen      = 10
)

// A Socket is a TCP socket as the kernel describes it.
type Socket struct {
	Local, Remote netip.AddrPort
	UID           uint32

	state uint8
}

// Listeners is the uids of all listening sockets, by address and port.
type Listeners map[netip.AddrPort]uint32

// ReadListeners asks once for all, which costs as much as asking for a few.
func ReadListeners() (Listeners, error) {
	all, err := ask(netip.AddrPortFrom(netip.IPv4Unspecified(), 0), 1<<listen, unix.NLM_F_DUMP)
	if err != nil {
		return nil, fmt.Errorf("look for who listens: %w", err)
	}
	listeners := make(Listeners, len(all))
	for _, s := range all {
		listeners[s.Local] = s.UID
	}
	return listeners, nil
}

// Listener returns the socket that a SYN to addr would reach: of that address or of all; nil if none.
func Listener(addr netip.AddrPort) (*Socket, error) {
	all, err := ask(addr, 1<<listen, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a listener on %s: %w", addr, err)
	}
	for _, s := range all {
		if s.state == listen {
			return &s, nil
		}
	}
	return nil, nil
}

// Clients returns the far ends of connections to addr that may still carry data: those open, being opened, and closed by
// the client only.
func Clients(addr netip.AddrPort) (clients []netip.AddrPort, err error) {
	all, err := ask(addr, 1<<established|1<<synRecv|1<<closeWait, unix.NLM_F_DUMP)
	for _, s := range all {
		if s.Local == addr {
			clients = append(clients, s.Remote)
		}
	}
	return clients, err
}

// ask sends one question to the kernel (include/uapi/linux/inet_diag.h). Without NLM_F_DUMP the kernel looks up the one
// socket that a packet from 0.0.0.0:0 to addr would be given to, which costs the same however many there are. With it, the
// kernel lists those in one of the states and with addr's port.
func ask(addr netip.AddrPort, states uint32, flags int) ([]Socket, error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, flags)
	req.AddRawData(request(addr, states))
	messages, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return nil, err
	}
	found := make([]Socket, 0, len(messages))
	for _, m := range messages {
		if len(m) < messageSize {
			return nil, fmt.Errorf("sock_diag message of %d bytes", len(m))
		}
		found = append(found, Socket{
			state:  m[1],
			Local:  netip.AddrPortFrom(netip.AddrFrom4([4]byte(m[8:12])), binary.BigEndian.Uint16(m[4:6])),
			Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte(m[24:28])), binary.BigEndian.Uint16(m[6:8])),
			UID:    binary.NativeEndian.Uint32(m[64:68]),
		})
	}
	return found, nil
}

// messageSize is sizeof(struct inet_diag_msg): family, state, timer, retrans (4 bytes), id as in the
// request (48), expires, rqueue, wqueue, uid, inode (20).
const messageSize = 72

// request returns a struct inet_diag_req_v2: family, protocol, extensions, padding, states, then the id:
// local port, remote port, local address, remote address, interface, cookie.
func request(addr netip.AddrPort, states uint32) []byte {
	b := make([]byte, 56)
	b[0], b[1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], states)
	binary.BigEndian.PutUint16(b[8:], addr.Port())
	copy(b[12:], addr.Addr().AsSlice())
	for i := 48; i < 56; i++ {
		b[i] = 0xff // INET_DIAG_NOCOOKIE
	}
	return b
}
