package lab

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServers are the addresses that Qubes gives to its VMs for name resolution.
var nameServers = []netip.Addr{netip.MustParseAddr("10.139.1.1"), netip.MustParseAddr("10.139.1.2")}

// OtherNameServer answers as these do. Nobody asks it, unless somebody sends questions on to it.
var OtherNameServer = netip.MustParseAddr("203.0.113.53")

// firstOrigin is the address of the first *.example name; further names get the following ones. The last
// address of its /24 serves all names after the 253rd.
var firstOrigin = netip.MustParseAddr("198.51.100.1")

// names is the name service of the lab.
type names struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr // lower case, no trailing dot; no addresses: the name does not exist
	given int                     // how many origins have an address

	manner atomic.Pointer[Manner]
}

func (n *names) set(name string, addrs []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.addrs == nil {
		n.addrs = map[string][]netip.Addr{}
	}
	n.addrs[name] = addrs
}

// lookup returns the addresses of a name, nil if there is no such name.
func (n *names) lookup(name string) []netip.Addr {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	n.mu.Lock()
	defer n.mu.Unlock()
	addrs, known := n.addrs[name]
	if known || !strings.HasSuffix(name, ".example") {
		return addrs
	}
	last := firstOrigin.As4()
	last[3] += byte(min(n.given, 252))
	n.given++
	addrs = []netip.Addr{netip.AddrFrom4(last)}
	n.addrs[name] = addrs
	return addrs
}

// serve answers questions until the connection is closed.
func (n *names) serve(conn *net.UDPConn) {
	buf := make([]byte, 1500)
	for {
		size, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		manner := n.manners()
		reply, err := n.answer(buf[:size], conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), manner)
		if err != nil {
			continue
		}
		if manner.Late > 0 {
			time.AfterFunc(manner.Late, func() { conn.WriteToUDPAddrPort(reply, from) }) //nolint:errcheck // who asked asks again
			continue
		}
		conn.WriteToUDPAddrPort(reply, from) //nolint:errcheck // who asked asks again
	}
}

// A Manner is how name servers answer.
type Manner struct {
	Late   time.Duration                           // until an answer goes out
	TTL    uint32                                  // seconds for which it is good
	Silent func(server netip.Addr, ipv6 bool) bool // whether a server ignores questions for addresses of a family; may be nil
}

// NameServers has the name servers answer in another manner than at once, to everything, and with answers that are good for no time.
func (l *Lab) NameServers(m Manner) { l.net.names.manner.Store(&m) }

func (n *names) manners() Manner {
	if m := n.manner.Load(); m != nil {
		return *m
	}
	return Manner{}
}

var errIgnored = errors.New("the question is ignored")

// answer answers a query; what is not a query it does not answer.
func (n *names) answer(query []byte, server netip.Addr, manner Manner) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	if manner.Silent != nil && manner.Silent(server, q.Type == dnsmessage.TypeAAAA) {
		return nil, errIgnored
	}
	addrs := n.lookup(q.Name.String())
	reply := dnsmessage.Message{
		Header: dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true,
			RecursionDesired: header.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	if len(addrs) == 0 {
		reply.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		if q.Type == dnsmessage.TypeAAAA && a.Is6() {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: manner.TTL},
				Body:   &dnsmessage.AAAAResource{AAAA: a.As16()},
			})
		}
		if q.Type == dnsmessage.TypeA && a.Is4() {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: manner.TTL},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	return reply.Pack()
}
