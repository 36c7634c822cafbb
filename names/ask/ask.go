// Package ask asks name servers for addresses, as the C library's resolver does, and better: it remembers which servers are silent, asks
// the next one after a short wait, and speaks EDNS and TCP.
//
// Concurrency: everything may be called from any goroutine.
package ask

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	ServersMax = 3  // as many as the C library asks (MAXNS in glibc's resolv.h)
	AddrsMax   = 32 // addresses of one answer
)

// A Config says which servers are asked, and how names are completed, as resolv.conf(5) does.
type Config struct {
	Servers []netip.AddrPort // the first ServersMax of them are asked, the first one first
	Search  []string         // domains
	Dots    int              // a name with fewer dots than this is tried in the Search domains first ("ndots")
}

// An Answer is what a name server says about the addresses of a name. It is negative if Addrs is empty.
type Answer struct {
	Addrs      []netip.Addr  // of the type that was asked for, in the server's order, without duplicates; AddrsMax at most
	NoSuchName bool          // the name has no records of any type (NXDOMAIN)
	TTL        time.Duration // for which it may be kept, counted from when it came; of a negative one by RFC 2308, 0 without an SOA record
}

// A Reason is why a question has no answer.
type Reason int

const (
	NoServer    Reason = iota // none is configured
	Silent                    // no server says anything, or none can be reached
	ServerError               // a server says that it cannot answer, or says what makes no sense
	Busy                      // too many questions are under way, or come too fast
)

// An Error says why a question has no answer.
type Error struct {
	Reason Reason
	Faults []Fault // of each server that was asked, in the order of the Config
}

// A Fault is what was wrong with one server.
type Fault struct {
	Server netip.AddrPort
	RCode  dnsmessage.RCode // what it said, if it is not 0
	Err    error            // why it cannot be asked or understood; nil if it said an RCode, or nothing
}

// An Asker asks name servers, and remembers how they behave.
type Asker struct{}

// New returns an Asker that has no servers.
func New() *Asker { return &Asker{} }

// Configure sets which servers are asked from now on. It keeps what is known of servers that stay.
func (a *Asker) Configure(c Config) {}

// Silent reports whether all servers are known to be silent. They are asked all the same.
func (a *Asker) Silent() bool { return false }

// Share returns one AppVM's share of the questions that may be under way.
func (a *Asker) Share() *Share { return &Share{asker: a} }

// A Share asks for one AppVM. An AppVM that asks for too much gets errors, and its neighbours do not notice.
type Share struct{ asker *Asker }

// Ask asks for the addresses of a name, of type A or AAAA. A name that ends with a dot is complete. Another one is tried in the
// Search domains too. A name that the C library would not accept in an answer has no addresses, and no server is asked. Ask returns
// within 10 s. The error is an *Error, or that of the context.
func (s *Share) Ask(ctx context.Context, name string, t dnsmessage.Type) (Answer, error) {
	return Answer{}, errors.ErrUnsupported
}

// Silent is that of the Asker.
func (s *Share) Silent() bool { return s.asker.Silent() }
