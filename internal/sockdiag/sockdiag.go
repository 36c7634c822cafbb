// Package sockdiag reads the table of TCP sockets of this network namespace (sock_diag(7)), and ends closed ones.
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
	"slices"

	"golang.org/x/sys/unix"

	"vifproxy/internal/netlink"
)

// States of a socket, include/net/tcp_states.h.
const (
	established = 1
	synSent     = 2
	synRecv     = 3
	finWait1    = 4
	closeWait   = 8
	lastAck     = 9
	listen      = 10
	closing     = 11
	all         = 0xfff // not a state, but the bits of all of them
)

// A Socket is a TCP socket as the kernel describes it.
type Socket struct {
	Local, Remote netip.AddrPort
	UID           uint32
	Cookie        uint64 // its number; the kernel never gives one twice
	Accepted      bool   // a process has it open; a connection that nobody has accepted yet is only in its listener's queue
	Waiting       uint32 // connections that a listener has not accepted yet; of other sockets, bytes that were not read yet
	Unsent        uint32 // bytes that the other side has not taken yet

	id    [48]byte // by which the kernel finds it
	state uint8
	group uint64 // the cgroup that it was made in, or its listener was; 0 if the kernel does not say
}

// Listeners is all listening IPv4 sockets, by address and port.
type Listeners map[netip.AddrPort]Socket

// ReadListeners asks once for all, which costs as much as asking for a few.
func ReadListeners() (Listeners, error) {
	found, err := ask(anyIPv4, 1<<listen, unix.NLM_F_DUMP)
	if err != nil {
		return nil, fmt.Errorf("look for who listens: %w", err)
	}
	listeners := make(Listeners, len(found))
	for _, s := range found {
		listeners[s.Local] = s
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

// Closed returns IPv4 sockets that their process has closed, while the other side has not taken all that they were to send.
func Closed() (sockets []Socket, err error) {
	found, err := ask(anyIPv4, 1<<finWait1|1<<closing|1<<lastAck, unix.NLM_F_DUMP)
	if err != nil {
		return nil, fmt.Errorf("list closed sockets: %w", err)
	}
	return slices.DeleteFunc(found, func(s Socket) bool { return s.Accepted }), nil // one that is shut down still has a process
}

// Destroy ends connections. It is no error if one has ended meanwhile. EOPNOTSUPP means that the kernel has no CONFIG_INET_DIAG_DESTROY.
func Destroy(sockets []Socket) error {
	conn, err := netlink.Dial(unix.NETLINK_INET_DIAG)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, s := range sockets {
		body := request(s.Local, 1<<s.state)
		copy(body[8:], s.id[:])
		err := conn.Exchange(netlink.Request(destroy, unix.NLM_F_ACK, body), func(netlink.Message) error { return nil })
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("destroy the socket of %s: %w", s.Remote, err)
		}
	}
	return nil
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

// Clients returns connections to addr that may still carry data: those open, being opened, and closed by the client only.
func Clients(addr netip.AddrPort) (clients []Socket, err error) {
	found, err := ask(addr, 1<<established|1<<synRecv|1<<closeWait, unix.NLM_F_DUMP)
	return slices.DeleteFunc(found, func(s Socket) bool { return s.Local != addr }), err
}

// ClientsIn returns such connections to sockets of a cgroup, at a port of this machine that many proxies share. A
// connection that is being opened counts if it is from that address, because the kernel does not say yet which listener's it is.
func ClientsIn(group uint64, port uint16, from netip.Addr) (clients []Socket, err error) {
	found, err := ask(netip.AddrPortFrom(netip.IPv4Unspecified(), port), 1<<established|1<<synRecv|1<<closeWait, unix.NLM_F_DUMP)
	for _, s := range found {
		if s.Local.Port() == port && s.Remote.Addr() == from && (s.group == group || s.state == synRecv) {
			clients = append(clients, s)
		}
	}
	return clients, err
}

// ask sends one question to the kernel (include/uapi/linux/inet_diag.h). Without NLM_F_DUMP the kernel looks up the one
// socket that a packet from 0.0.0.0:0 to addr would be given to, which costs the same however many there are. With it, the
// kernel lists those in one of the states and with addr's port.
func ask(addr netip.AddrPort, states uint32, flags uint16) (found []Socket, err error) {
	conn, err := netlink.Dial(unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	err = conn.Exchange(netlink.Request(byFamily, flags, request(addr, states)), func(answer netlink.Message) error {
		m := answer.Body
		if len(m) < messageSize {
			return fmt.Errorf("sock_diag message of %d bytes", len(m))
		}
		found = append(found, Socket{
			state:  m[1],
			Local:  netip.AddrPortFrom(address(m[0], m[8:24]), binary.BigEndian.Uint16(m[4:6])),
			Remote: netip.AddrPortFrom(address(m[0], m[24:40]), binary.BigEndian.Uint16(m[6:8])),
			UID:    binary.NativeEndian.Uint32(m[64:68]),
			Cookie: binary.NativeEndian.Uint64(m[44:52]),
			group:  groupIn(m[messageSize:]),

			Accepted: binary.NativeEndian.Uint32(m[68:72]) != 0, // its inode
			Waiting:  binary.NativeEndian.Uint32(m[56:60]),
			Unsent:   binary.NativeEndian.Uint32(m[60:64]),
			id:       [48]byte(m[4:52]),
		})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

const byFamily, destroy = 20, 21 // SOCK_DIAG_BY_FAMILY, SOCK_DESTROY of include/uapi/linux/sock_diag.h

// groupIn returns the id of the cgroup in the attributes that follow a message; 0 if there is none (before Linux 5.9).
func groupIn(attributes []byte) (group uint64) {
	var d netlink.Decoder
	if id := d.Find(attributes, diagCgroupID); d.Err() == nil && len(id) == 8 {
		group = binary.NativeEndian.Uint64(id)
	}
	return group
}

// diagCgroupID is INET_DIAG_CGROUP_ID of include/uapi/linux/inet_diag.h.
const diagCgroupID = 21

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
