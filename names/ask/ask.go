// Package ask asks name servers for addresses, as the C library's resolver does, and better: it remembers which servers are silent, asks
// the next one after a short wait, and speaks EDNS and TCP.
//
// Concurrency: everything may be called from any goroutine.
package ask

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	ServersMax = 3  // as many as the C library asks (MAXNS in glibc's resolv.h)
	AddrsMax   = 32 // addresses of one answer

	searchMax = 8                // domains in which a name is looked for
	chainMax  = 16               // CNAMEs from a name to its addresses
	total     = 10 * time.Second // for all questions of one Ask
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

// An Asker asks name servers, and remembers how they behave.
type Asker struct {
	mu      sync.Mutex
	servers []*server // in the order of the Config
	search  []string  // complete names, without the last dot
	dots    int
	sockets int // that are open, of all shares

	version atomic.Int64
	changed context.Context // ends when the version does
	change  context.CancelFunc
}

// New returns an Asker that has no servers.
func New() *Asker {
	a := &Asker{}
	a.changed, a.change = context.WithCancel(context.Background())
	return a
}

// Configure sets which servers are asked from now on, also by questions that are under way. It keeps what is known of servers that stay.
func (a *Asker) Configure(c Config) {
	a.mu.Lock()
	defer a.mu.Unlock()
	former, formerSearch, formerDots := a.servers, a.search, a.dots
	a.servers = nil
	for _, addr := range c.Servers {
		is := func(s *server) bool { return s.addr == addr }
		if len(a.servers) == ServersMax || slices.ContainsFunc(a.servers, is) {
			continue
		}
		if i := slices.IndexFunc(former, is); i >= 0 {
			a.servers = append(a.servers, former[i])
		} else {
			a.servers = append(a.servers, &server{addr: addr})
		}
	}
	a.search = nil
	for _, domain := range c.Search {
		if domain = complete(domain); valid(domain) && len(a.search) < searchMax {
			a.search = append(a.search, domain)
		}
	}
	a.dots = c.Dots
	if !slices.Equal(a.servers, former) || !slices.Equal(a.search, formerSearch) || a.dots != formerDots {
		a.version.Add(1)
		a.change()
		a.changed, a.change = context.WithCancel(context.Background())
	}
}

// Version is a number that changes when other servers are asked, or other names.
func (a *Asker) Version() int { return int(a.version.Load()) }

// Silent reports whether all servers are known to be silent. They are asked all the same.
func (a *Asker) Silent() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.servers {
		if !s.isSilent() {
			return false
		}
	}
	return len(a.servers) > 0
}

// Ask asks for the addresses of a name, of type A or AAAA. A name that ends with a dot is complete. Another one is tried in the
// Search domains too. A name that the C library would not accept in an answer has no addresses, and no server is asked. Ask returns
// within 10 s. The error is an *Error, or that of the context.
func (s *Share) Ask(ctx context.Context, name string, t dnsmessage.Type) (Answer, error) {
	limited, cancel := context.WithTimeout(ctx, total)
	defer cancel()
	for {
		current, stop := s.asker.current(limited)
		answer, err := s.search(current, name, t)
		changed := current.Err() != nil && limited.Err() == nil
		stop()
		switch {
		case err == nil:
			return answer, nil
		case ctx.Err() != nil:
			return Answer{}, ctx.Err()
		case !changed:
			return Answer{}, err
		}
	}
}

// current returns a context that ends when other servers are to be asked.
func (a *Asker) current(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	stop := context.AfterFunc(a.changed, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// search asks for the addresses of what a name may stand for.
func (s *Share) search(ctx context.Context, name string, t dnsmessage.Type) (Answer, error) {
	none := Answer{NoSuchName: true, TTL: ttlMax}
	var failed error
	for _, full := range s.asker.candidates(name) {
		answer, err := s.follow(ctx, full, t)
		var e *Error
		switch {
		case errors.As(err, &e) && e.Reason == ServerError: // as the C library does: the next domain may have it
			failed = err
		case err != nil:
			return Answer{}, err
		case !answer.NoSuchName:
			return answer, nil
		default:
			none.TTL = min(none.TTL, answer.TTL)
		}
	}
	if failed != nil {
		return Answer{}, failed
	}
	return none, nil
}

// follow asks for the addresses of one complete name, and of what it is an alias of.
func (s *Share) follow(ctx context.Context, name string, t dnsmessage.Type) (Answer, error) {
	ttl := ttlMax
	var r reply
	for range chainMax {
		var err error
		if r, err = s.question(ctx, name, t); err != nil {
			return Answer{}, err
		}
		r.TTL = min(r.TTL, ttl)
		if r.alias == "" {
			return r.Answer, nil
		}
		if !valid(r.alias) {
			return Answer{TTL: r.TTL}, nil
		}
		name, ttl = r.alias, r.TTL
	}
	return Answer{}, &Error{Reason: ServerError, Faults: []Fault{{Server: r.server, Err: errEndless}}}
}
