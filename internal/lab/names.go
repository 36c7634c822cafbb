package lab

import (
	"errors"
	"fmt"
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
	conns   map[netip.Addr]*net.UDPConn // of the name servers that are not dead
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

// lookup returns the addresses of a name, nil if there is no such name, the name that it is an alias of, and for how many seconds that is
// true.
func (n *names) lookup(name string) (addrs []netip.Addr, alias string, ttl uint32) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	n.mu.Lock()
	defer n.mu.Unlock()
	r, known := n.hosts[name]
	if known && r.alias != "" {
		alias = r.alias
		r, known = n.hosts[alias]
		name = alias
	}
	if !known && !strings.HasSuffix(name, ".example") {
		return nil, alias, 0
	}
	if !known {
		last := firstOrigin.As4()
		last[3] += byte(min(n.given, 252))
		n.given++
		r = always(netip.AddrFrom4(last))
		n.hosts[name] = r
	}
	return r.addrs(), alias, r.ttl
}

func always(addrs ...netip.Addr) record {
	return record{addrs: func() []netip.Addr { return addrs }}
}

// listen has a name server answer as it is told to, until its connection is closed. It is called on a thread of the internet namespace.
func (n *names) listen(at netip.Addr, m Manner) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.manners == nil {
		n.manners, n.conns = map[netip.Addr]Manner{}, map[netip.Addr]*net.UDPConn{}
	}
	n.manners[at] = m
	conn := n.conns[at]
	switch {
	case m.Dead && conn != nil:
		delete(n.conns, at)
		return conn.Close()
	case m.Dead || conn != nil:
		return nil
	}
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 53)))
	if err != nil {
		return err
	}
	n.conns[at] = conn
	go n.serve(at, conn)
	return nil
}

func (n *names) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, conn := range n.conns {
		conn.Close()
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
		n.mu.Lock()
		m := n.manners[at]
		n.mu.Unlock()
		if m.Silent {
			continue
		}
		answer := func() { // by what is so when it answers
			if reply, err := n.answer(buf[:size], m); err == nil {
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

// answer answers a query; what is not a query it does not answer.
func (n *names) answer(query []byte, m Manner) ([]byte, error) {
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
	addrs, alias, ttl := n.lookup(q.Name.String())
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
	if alias != "" {
		if owner, err = dnsmessage.NewName(alias + "."); err != nil {
			return nil, err
		}
		reply.Answers = append(reply.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl},
			Body:   &dnsmessage.CNAMEResource{CNAME: owner},
		})
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
	return reply.Pack()
}

// Host makes a name resolve to the given addresses; with none the name does not exist. The answer is true for the TTL of its Manner. Names under .example need
// no registration: each gets an origin of its own.
func (l *Lab) Host(name string, addrs ...netip.Addr) {
	l.net.names.set(strings.ToLower(name), always(addrs...))
}

// Alias makes a name an alias (CNAME) of another one.
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
