package names

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// batch is how many questions are read at once.
	batch = 64
	// questionMax is how long a question may be. The longest of a C library has 288 bytes.
	questionMax = 512
)

// A socket is where questions come to. Proxies send them to many addresses of one port.
type socket struct {
	conn    *net.UDPConn
	packets *ipv4.PacketConn
}

func newSocket(conn *net.UDPConn) (*socket, error) {
	s := &socket{conn: conn, packets: ipv4.NewPacketConn(conn)}
	return s, s.packets.SetControlMessage(ipv4.FlagDst, true)
}

// read calls take for each question: the address that it was sent to, the socket that it comes from, and the message, which is the
// callee's until it returns. It returns when the socket fails.
func (s *socket) read(take func(at netip.Addr, from netip.AddrPort, message []byte)) error {
	messages := make([]ipv4.Message, batch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, questionMax)}
		messages[i].OOB = ipv4.NewControlMessage(ipv4.FlagDst)
	}
	var control ipv4.ControlMessage
	for {
		n, err := s.packets.ReadBatch(messages, 0)
		if err != nil {
			return err
		}
		for i := range messages[:n] {
			m := &messages[i]
			from, ok := m.Addr.(*net.UDPAddr)
			if !ok || control.Parse(m.OOB[:m.NN]) != nil {
				continue
			}
			text := m.Buffers[0][:m.N]
			if m.Flags&unix.MSG_TRUNC != 0 { // no C library makes that
				text = nil
			}
			if at, ok := netip.AddrFromSlice(control.Dst.To4()); ok {
				take(at, from.AddrPort(), text)
			}
		}
	}
}

// write sends an answer. control says from which address. Who does not get it asks again.
func (s *socket) write(message, control []byte, to netip.AddrPort) {
	_, _, _ = s.conn.WriteMsgUDPAddrPort(message, control, to)
}

// close ends read.
func (s *socket) close() { s.conn.Close() }
