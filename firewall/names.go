package firewall

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// An Asker is a proxy that may ask for names. What its uid sends to port 53 by UDP over IPv4, to whatever address, is translated to
// At, an address of the loopback where the resolver answers. So the resolver knows the asker by the address that a question has
// reached, and nothing in the question says it. A proxy that is no Asker asks nobody.
//
// The socket that answers there has to be made as Config.NamesUID: to the fence, a packet is of who made its socket, whoever uses
// that now (f_cred in nft_meta_get_eval_skugid of the kernel's net/netfilter/nft_meta.c).
type Asker struct {
	UID uint32
	At  netip.AddrPort
}

// A Pin opens one public address to one proxy, at the ports that are open to it, for connections that begin. Connections that stand
// do not need it.
type Pin struct {
	UID  uint32
	Addr netip.Addr
}

// A Pinner keeps pins in the kernel. It may be called from any goroutine, also while a Sync is under way. Errors are about all pins of
// the call: the kernel has taken all of them or none.
type Pinner interface {
	// Pin opens addresses from now on, for a time between a second and PinMax. It returns nil when the kernel holds all of them. A pin
	// that is there already lasts at least as long as before. An address that is not Public is an error. Of a proxy that has too many
	// pins then, and if all together have too many, those of earlier calls go that would end first.
	Pin(ctx context.Context, pins []Pin, lasting time.Duration) error

	// Unpin closes addresses for connections that begin. It is no error if a pin is not there.
	Unpin(ctx context.Context, pins []Pin) error

	// UnpinAll closes all addresses that are pinned for a uid.
	UnpinAll(ctx context.Context, uid uint32) error
}

// PinMax is the longest time for which an address is pinned at once.
const PinMax = time.Hour

// loopback is where askers have their addresses.
var loopback = netip.MustParsePrefix("127.0.0.0/8")

// normalAskers returns the askers by their uids, or an error if they cannot be.
func (c Config) normalAskers(all []Asker) ([]Asker, error) {
	if !slices.IsSortedFunc(all, compareAskers) {
		all = slices.SortedFunc(slices.Values(all), compareAskers)
	}
	var seen map[netip.AddrPort]uint32 // nil if addresses increase too: then none is there twice
	if !increase(all, func(a, b Asker) int { return a.At.Compare(b.At) }) {
		seen = make(map[netip.AddrPort]uint32, len(all))
	}
	for i, a := range all {
		other, twice := seen[a.At]
		switch {
		case a.UID < c.FirstUID || a.UID > c.LastUID || a.UID == c.NamesUID:
			return nil, fmt.Errorf("askers: uid %d is no uid of a proxy", a.UID)
		case i > 0 && all[i-1].UID == a.UID:
			return nil, fmt.Errorf("askers: uid %d twice", a.UID)
		case !loopback.Contains(a.At.Addr()) || a.At.Port() == 0:
			return nil, fmt.Errorf("askers: %v of uid %d is no address and port of the loopback", a.At, a.UID)
		case twice:
			return nil, fmt.Errorf("askers: uids %d and %d have the same address %v", other, a.UID, a.At)
		}
		if seen != nil {
			seen[a.At] = a.UID
		}
	}
	return all, nil
}

// Public reports whether an address is one that a pin may open: no network that only an opening reaches contains it.
func Public(addr netip.Addr) bool {
	return addr.IsValid() && addr.Zone() == "" && !addr.Is4In6() && !within(forbidden, addr).IsValid()
}
