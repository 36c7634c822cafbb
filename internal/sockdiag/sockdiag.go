// Package sockdiag reads the table of TCP sockets of this network namespace (sock_diag(7)).
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
	synSent     = 2
	synRecv     = 3
	closeWait   = 8
	listen      = 10
	all         = 0xfff // not a state, but the bits of all of them
)

// A Socket is a TCP socket as the kernel describes it.
type Socket struct {
	Local, Remote netip.AddrPort
	UID           uint32

	state uint8
}

// Listeners is the uids of all listening IPv4 sockets, by address and port.
type Listeners map[netip.AddrPort]uint32

// ReadListeners asks once for all, which costs as much as asking for a few.
func ReadListeners() (Listeners, error) {
	found, err := ask(anyIPv4, 1<<listen, unix.NLM_F_DUMP)
	if err != nil {
		return nil, fmt.Errorf("look for who listens: %w", err)
	}
	listeners := make(Listeners, len(found))
	for _, s := range found {
		listeners[s.Local] = s.UID
	}
	return listeners, nil
}

// The addresses that mean all sockets of a family.
var (
	anyIPv4 = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	anyIPv6 = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
)

// IPv4 returns all IPv4 sockets, waiting and ending ones included.
func IPv4() ([]Socket, error) { return ask(anyIPv4, all, unix.NLM_F_DUMP) }

// Connecting returns the sockets of a uid, of either family, that have not been answered yet by a port.
func Connecting(uid uint32, port uint16) (sockets []Socket, err error) {
	for _, family := range []netip.AddrPort{anyIPv4, anyIPv6} {
		found, err := ask(family, 1<<synSent, unix.NLM_F_DUMP)
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		for _, s := range found {
			if s.state == synSent && s.UID == uid && s.Remote.Port() == port {
				sockets = append(sockets, s)
			}
		}
	}
	return sockets, nil
}

// Listener returns the socket that a SYN to addr would reach: of that address or of all; nil if none.
func Listener(addr netip.AddrPort) (*Socket, error) {
	found, err := ask(addr, 1<<listen, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a listener on %s: %w", addr, err)
	}
	for _, s := range found {
		if s.state == listen {
			return &s, nil
		}
	}
	return nil, nil
}

// Clients returns the far ends of connections to addr that may still carry data: those open, being opened, and closed by
// the client only.
func Clients(addr netip.AddrPort) (clients []netip.AddrPort, err error) {
	found, err := ask(addr, 1<<established|1<<synRecv|1<<closeWait, unix.NLM_F_DUMP)
	for _, s := range found {
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
			Local:  netip.AddrPortFrom(address(m[0], m[8:24]), binary.BigEndian.Uint16(m[4:6])),
			Remote: netip.AddrPortFrom(address(m[0], m[24:40]), binary.BigEndian.Uint16(m[6:8])),
			UID:    binary.NativeEndian.Uint32(m[64:68]),
		})
	}
	return found, nil
}

// address reads one of a family. An IPv6 socket may have an IPv4 address.
func address(family byte, b []byte) netip.Addr {
	if family == unix.AF_INET6 {
		return netip.AddrFrom16([16]byte(b)).Unmap()
	}
	return netip.AddrFrom4([4]byte(b[:4]))
}

// messageSize is sizeof(struct inet_diag_msg): family, state, timer, retrans (4 bytes), id as in the
// request (48), expires, rqueue, wqueue, uid, inode (20).
const messageSize = 72

// request returns a struct inet_diag_req_v2: family, protocol, extensions, padding, states, then the id:
// local port, remote port, local address, remote address, interface, cookie.
func request(addr netip.AddrPort, states uint32) []byte {
	b := make([]byte, 56)
	b[0], b[1] = unix.AF_INET, unix.IPPROTO_TCP
	if addr.Addr().Is6() {
		b[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(b[4:], states)
	binary.BigEndian.PutUint16(b[8:], addr.Port())
	copy(b[12:], addr.Addr().AsSlice())
	for i := 48; i < 56; i++ {
		b[i] = 0xff // INET_DIAG_NOCOOKIE
	}
	return b
}
