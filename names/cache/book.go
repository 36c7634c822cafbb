// Package cache keeps the answers of name servers for one AppVM.
//
// Concurrency: everything may be called from any goroutine.
package cache

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/names/ask"
)

// An Asker asks name servers. It is an *ask.Share.
type Asker interface {
	Ask(ctx context.Context, name string, t dnsmessage.Type) (ask.Answer, error)
	Silent() bool // all servers are known to be silent
}

// A Result is the addresses of a name. Without any, it is negative.
type Result struct {
	Addrs4, Addrs6 []netip.Addr  // of one family only
	NoSuchName     bool          // there are no addresses, and no other records either
	Stale          bool          // the servers are silent, and this is what they said before
	TTL            time.Duration // how much longer this is true
}

// A Book is what one AppVM has been answered. It is never shared: else an AppVM would learn which names another one asks for.
type Book struct{}

// New returns an empty Book. ipv4 reports whether IPv4 has a route; it is called at each Look. Questions under way end with ctx.
func New(ctx context.Context, asker Asker, ipv4 func() bool) *Book { return &Book{} }

// Look returns the addresses of a name, those of IPv4 if it has some and IPv4 has a route, else those of IPv6. It asks for what it does
// not know, once for all who look at the same time. The error is an *ask.Error, or that of the context.
func (b *Book) Look(ctx context.Context, name string) (Result, error) {
	return Result{}, errors.ErrUnsupported
}
