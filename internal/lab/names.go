package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// NameServers are the addresses that Qubes gives to its VMs for name resolution, as resolv.conf has them.
var NameServers = [2]netip.Addr{netip.MustParseAddr("10.139.1.1"), netip.MustParseAddr("10.139.1.2")}

// OtherNameServer answers as these do. Nobody asks it, unless somebody sends questions on to it.
var OtherNameServer = netip.MustParseAddr("203.0.113.53")

// firstOrigin is the address of the first *.example name; further names get the following ones. The last
// address of its /24 serves all names after the 253rd.
var firstOrigin = netip.MustParseAddr("198.51.100.1")

// A Manner is how a name server answers. The zero value answers at once.
type Manner struct {
	Silent bool          // it answers nothing
	Dead   bool          // nobody listens there, and the kernel says so
	NoIPv6 bool          // it is silent to questions for addresses of IPv6
	Late   time.Duration // from the question to the answer
	TTL    uint32        // seconds for which an answer is true, unless HostFor says something else
}

// names is the name service of the lab.
type names struct {
	mu      sync.Mutex
	hosts   map[string]record // lower case, no trailing dot
	given   int               // how many origins have an address
	manners map[netip.Addr]Manner
	conns   map[netip.Addr]conns // of the name servers that are not dead
}

// A record is what is known of a name. Without addresses the name does not exist.
type record struct {
	addrs func() []netip.Addr
	alias string // of which name it is one; "" if it is none
	ttl   uint32
}

func (n *names) set(name string, r record) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = map[string]record{}
	}
	n.hosts[name] = r
}

// conns are what a name server is asked by.
type conns struct {
	udp *net.UDPConn
	tcp net.Listener
}

func (c conns) close() error { return errors.Join(c.udp.Close(), c.tcp.Close()) }

// aliasesMax is how many aliases an answer has, as of a name that is an alias of itself.
const aliasesMax = 32

// lookup returns the addresses of a name, nil if there is no such name, the names that it leads through as an alias, and for how many
// seconds that is true.
func (n *names) lookup(name string) (addrs []netip.Addr, aliases []string, ttl uint32) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	n.mu.Lock()
	defer n.mu.Unlock()
	r, known := n.hosts[name]
	for known && r.alias != "" && len(aliases) < aliasesMax {
		name = r.alias
		aliases = append(aliases, name)
		r, known = n.hosts[name]
	}
	if !known && !strings.HasSuffix(name, ".example") {
		return nil, aliases, 0
	}
	if !known {
		last := firstOrigin.As4()
		last[3] += byte(min(n.given, 252))
		n.given++
		r = always(netip.AddrFrom4(last))
		n.hosts[name] = r
	}
	if r.alias != "" {
		return nil, aliases, 0
	}
	return r.addrs(), aliases, r.ttl
}

func always(addrs ...netip.Addr) record {
	return record{addrs: func() []netip.Addr { return addrs }}
}

// listen has a name server answer as it is told to, until its connection is closed. It is called on a thread of the internet namespace.
func (n *names) listen(at netip.Addr, m Manner) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.manners == nil {
		n.manners, n.conns = map[netip.Addr]Manner{}, map[netip.Addr]conns{}
	}
	n.manners[at] = m
	c, listens := n.conns[at]
	switch {
	case m.Dead && listens:
		delete(n.conns, at)
		return c.close()
	case m.Dead || listens:
		return nil
	}
	port := netip.AddrPortFrom(at, 53)
	udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(port))
	if err != nil {
		return err
	}
	tcp, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(port))
	if err != nil {
		return errors.Join(err, udp.Close())
	}
	n.conns[at] = conns{udp, tcp}
	go n.serve(at, udp)
	go n.serveTCP(at, tcp)
	return nil
}

func (n *names) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.close() //nolint:errcheck // all ends
	}
}

// serve answers questions until the connection is closed.
func (n *names) serve(at netip.Addr, conn *net.UDPConn) {
	for {
		buf := make([]byte, 1500)
		size, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		m := n.manner(at)
		if m.Silent {
			continue
		}
		answer := func() { // by what is so when it answers
			if reply, err := n.answer(buf[:size], m, 0); err == nil {
				conn.WriteToUDPAddrPort(reply, from) //nolint:errcheck // who asked asks again
			}
		}
		if m.Late > 0 {
			time.AfterFunc(m.Late, answer)
		} else {
			answer()
		}
	}
}

func (n *names) manner(at netip.Addr) Manner {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.manners[at]
}

// serveTCP answers questions whose answers are too long for a datagram, one for each connection, until the listener is closed.
func (n *names) serveTCP(at netip.Addr, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(connTime))
			var size [2]byte
			if _, err := io.ReadFull(conn, size[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(conn, query); err != nil {
				return
			}
			m := n.manner(at)
			time.Sleep(m.Late)
			reply, err := n.answer(query, m, math.MaxUint16)
			if err != nil || m.Silent {
				return
			}
			conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)) //nolint:errcheck // who asked asks again
		}()
	}
}

// connTime is how long a connection to a name server may last.
const connTime = 10 * time.Second

// answer answers a query; what is not a query it does not answer. An answer that is longer than most is cut off; most 0 is what the
// query says (RFC 6891, section 6.2.3).
func (n *names) answer(query []byte, m Manner, most int) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	if m.NoIPv6 && q.Type == dnsmessage.TypeAAAA {
		return nil, fmt.Errorf("%v is not answered", q.Type)
	}
	if most == 0 {
		most = datagramMost(p)
	}
	addrs, aliases, ttl := n.lookup(q.Name.String())
	ttl = max(ttl, m.TTL)
	owner := q.Name
	reply := dnsmessage.Message{
		Header: dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true,
			RecursionDesired: header.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	if len(addrs) == 0 {
		reply.RCode = dnsmessage.RCodeNameError
	}
	for _, alias := range aliases {
		of, err := dnsmessage.NewName(alias + ".")
		if err != nil {
			return nil, err
		}
		reply.Answers = append(reply.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: ttl},
			Body:   &dnsmessage.CNAMEResource{CNAME: of},
		})
		owner = of
	}
	for _, a := range addrs {
		if q.Type == dnsmessage.TypeAAAA && a.Is6() {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: ttl},
				Body:   &dnsmessage.AAAAResource{AAAA: a.As16()},
			})
		}
		if q.Type == dnsmessage.TypeA && a.Is4() {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: ttl},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	packed, err := reply.Pack()
	if err != nil || len(packed) <= most {
		return packed, err
	}
	reply.Truncated, reply.Answers = true, nil
	return reply.Pack()
}

// datagramMost returns how long an answer may be to a query whose question has been parsed.
func datagramMost(p dnsmessage.Parser) int {
	if errors.Join(p.SkipAllQuestions(), p.SkipAllAnswers(), p.SkipAllAuthorities()) != nil {
		return 512
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return 512
		}
		if h.Type == dnsmessage.TypeOPT {
			return max(512, int(h.Class))
		}
		if p.SkipAdditional() != nil {
			return 512
		}
	}
}

// Host makes a name resolve to the given addresses; with none the name does not exist. The answer is true for the TTL of its Manner. Names under .example need
// no registration: each gets an origin of its own.
func (l *Lab) Host(name string, addrs ...netip.Addr) {
	l.net.names.set(strings.ToLower(name), always(addrs...))
}

// Alias makes a name an alias (CNAME) of another one, which may be one too.
func (l *Lab) Alias(name, of string) {
	l.net.names.set(strings.ToLower(name), record{alias: strings.ToLower(of)})
}

// HostFor makes a name resolve to what addrs returns when it is asked for, which is true for so many seconds. Addrs may be called from any
// goroutine, and not call the lab.
func (l *Lab) HostFor(seconds uint32, name string, addrs func() []netip.Addr) {
	l.net.names.set(strings.ToLower(name), record{addrs: addrs, ttl: seconds})
}

// Answer has some of the NameServers answer in another manner from now on; all if none is named.
func (l *Lab) Answer(m Manner, servers ...netip.Addr) error {
	if len(servers) == 0 {
		servers = NameServers[:]
	}
	return l.DoInternet(func() (err error) {
		for _, s := range servers {
			err = errors.Join(err, l.net.names.listen(s, m))
		}
		return err
	})
}
