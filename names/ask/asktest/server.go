// Package asktest is name servers for tests, which do what a test says.
//
// Concurrency: everything may be called from any goroutine.
package asktest

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// A Query is a question as it came.
type Query struct {
	Name      string // in lower case, with the last dot
	Type      dnsmessage.Type
	EDNS, TCP bool
	ID        uint16
	From      netip.AddrPort
	N         int               // questions before this one
	Reply     func(text []byte) // sends something, as often as it is called
	Hang      func()            // waits until the test ends, or the client hangs up
	message   dnsmessage.Message
}

// A Server is a name server at a port of loopback, by UDP and TCP.
type Server struct {
	Addr  netip.AddrPort
	asked atomic.Int64
	over  chan struct{}
}

// Asked returns how many questions have come.
func (s *Server) Asked() int { return int(s.asked.Load()) }

// Start starts a server at an address, such as 127.0.0.1. It calls serve for each question, side by side. It ends with the test.
func Start(t testing.TB, at string, serve func(Query)) *Server {
	t.Helper()
	for tries := 0; ; tries++ { // until one port is free for both
		s, err := start(t, netip.AddrPortFrom(netip.MustParseAddr(at), 0), serve)
		if err == nil {
			return s
		}
		if tries > 100 {
			t.Fatal(err)
		}
	}
}

// StartAt starts a server at an address and a port.
func StartAt(t testing.TB, at netip.AddrPort, serve func(Query)) *Server {
	t.Helper()
	s, err := start(t, at, serve)
	if err != nil {
		t.Error(err)
	}
	return s
}

func start(t testing.TB, at netip.AddrPort, serve func(Query)) (*Server, error) {
	s := &Server{over: make(chan struct{})}
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	s.Addr = tcp.Addr().(*net.TCPAddr).AddrPort()
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(s.Addr))
	if err != nil {
		tcp.Close()
		return nil, err
	}
	t.Cleanup(func() {
		close(s.over)
		udp.Close()
		tcp.Close()
	})
	if raw, err := udp.SyscallConn(); err == nil { // what a test asks at once waits there, however busy the machine is
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) }) //nolint:errcheck // root may
	}
	go s.datagrams(udp, serve)
	go s.streams(tcp, serve)
	return s, nil
}

func (s *Server) datagrams(conn *net.UDPConn, serve func(Query)) {
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		q, ok := s.query(buf[:n])
		if !ok {
			continue
		}
		q.Reply = func(text []byte) { conn.WriteToUDPAddrPort(text, from) } //nolint:errcheck // who asked may have gone
		q.Hang = func() {}
		q.From = from
		go serve(q)
	}
}

func (s *Server) streams(listener *net.TCPListener, serve func(Query)) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			var length [2]byte
			if _, err := io.ReadFull(conn, length[:]); err != nil {
				return
			}
			buf := make([]byte, binary.BigEndian.Uint16(length[:]))
			if _, err := io.ReadFull(conn, buf); err != nil {
				return
			}
			q, ok := s.query(buf)
			if !ok {
				return
			}
			q.TCP = true
			q.Reply = func(text []byte) {
				conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...)) //nolint:errcheck // as above
			}
			q.Hang = func() {
				gone := make(chan struct{})
				go func() {
					conn.Read(length[:]) //nolint:errcheck // it ends when the client hangs up
					close(gone)
				}()
				select {
				case <-gone:
				case <-s.over:
				}
			}
			serve(q)
		}()
	}
}

func (s *Server) query(text []byte) (q Query, ok bool) {
	if q.message.Unpack(text) != nil || len(q.message.Questions) != 1 {
		return q, false
	}
	q.ID = q.message.ID
	q.Name, q.Type = q.message.Questions[0].Name.String(), q.message.Questions[0].Type
	for _, r := range q.message.Additionals {
		q.EDNS = q.EDNS || r.Header.Type == dnsmessage.TypeOPT
	}
	q.N = int(s.asked.Add(1)) - 1
	return q, true
}

// Message returns an answer to the query, with these records.
func (q Query) Message(answers ...dnsmessage.Resource) dnsmessage.Message {
	return dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.message.ID, Response: true, RecursionDesired: true, RecursionAvailable: true},
		Questions: q.message.Questions,
		Answers:   answers,
	}
}

// Send sends a message.
func (q Query) Send(m dnsmessage.Message) {
	text, err := m.Pack()
	if err != nil {
		panic(err) // the test is wrong
	}
	q.Reply(text)
}

// Answer sends these records, if they fit into what the client can take: 512 bytes, 1232 with EDNS, anything by TCP. Else it says that
// they do not, with the first ones.
func (q Query) Answer(answers ...dnsmessage.Resource) {
	m := q.Message(answers...)
	most := map[bool]int{false: 512, true: 1232}[q.EDNS]
	for {
		text, err := m.Pack()
		if err != nil {
			panic(err)
		}
		if q.TCP || len(text) <= most {
			q.Reply(text)
			return
		}
		m.Answers = m.Answers[:len(m.Answers)-1]
		m.Truncated = true
	}
}

// Fail sends a result code.
func (q Query) Fail(rcode dnsmessage.RCode) {
	m := q.Message()
	m.RCode = rcode
	q.Send(m)
}

// None sends a negative answer: there is no such name, or it has no such records. It may be kept for some seconds.
func (q Query) None(rcode dnsmessage.RCode, seconds uint32) {
	m := q.Message()
	m.RCode = rcode
	zone := dnsmessage.MustNewName("example.")
	m.Authorities = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: zone, Class: dnsmessage.ClassINET, TTL: max(seconds, 600)},
		Body:   &dnsmessage.SOAResource{NS: zone, MBox: zone, MinTTL: seconds},
	}}
	q.Send(m)
}

// Address returns a record of type A or AAAA.
func Address(name, addr string, seconds uint32) dnsmessage.Resource {
	r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: seconds}}
	if a := netip.MustParseAddr(addr); a.Is4() {
		r.Body = &dnsmessage.AResource{A: a.As4()}
	} else {
		r.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
	}
	return r
}

// Alias returns a record of type CNAME.
func Alias(name, target string, seconds uint32) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: seconds},
		Body:   &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(target)},
	}
}

// Closed returns a port of loopback where nobody listens.
func Closed(t testing.TB) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Ask asks a server as plainly as can be, and returns what it says.
func Ask(t testing.TB, at netip.AddrPort, name string, kind dnsmessage.Type) (reply dnsmessage.Message) {
	t.Helper()
	question := dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}
	message := dnsmessage.Message{Header: dnsmessage.Header{ID: 1, RecursionDesired: true}, Questions: []dnsmessage.Question{question}}
	text, err := message.Pack()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(text); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err == nil {
		err = reply.Unpack(buf[:n])
	}
	if err != nil {
		t.Fatal(err)
	}
	return reply
}
