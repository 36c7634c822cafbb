// Package firewall decides which AppVM reaches which proxy, and what proxies reach, by keeping rules in the
// kernel.
//
// Every AppVM connects to the same place, port 8100 of its gateway. Behind it each proxy listens on a port of
// its own, and a Binding says who gets there: packets that come in on this vif, from this address, are sent
// on to this proxy. Nothing else leads to a proxy. The rules have three parts:
//
//   - a nat rule that sends a bound AppVM's connections to port 8100 on to its proxy;
//   - an accept rule, since the firewall VM rejects what AppVMs send to the firewall VM itself;
//   - the guard: a new connection to a port in the range where proxies listen is reset unless a binding
//     allows it. It looks at the SYN flag and not at the connection tracking state, since the tracking entry
//     of an old connection would count a hostile AppVM's new SYN as established, and by then the port may be
//     another's.
//
// The other direction is the fence, see Fence. Open puts it up, before any proxy runs, and it stands until
// Remove.
//
// A connection that is up does not depend on its binding any more (connection tracking keeps the
// translation), so a binding can move to a new proxy, or go, without harm to it; whoever wants it cut ends
// the old proxy.
//
// All of it is kept in tables of our own. What other programs' chains decide besides needs one rule in theirs: in
// Qubes' table, or in the chain INPUT of iptables, see Open.
//
// Backends write the difference between what the kernel holds and what it is to hold. They believe nothing they
// remember unless the kernel says that nobody has changed anything since (nftables counts its transactions; the chain
// INPUT is read at each Sync), so whatever happened in between (another program's flush, a failed Sync, a crash) the next
// Sync sets it right.
package firewall

import (
	"context"
	"errors"
)

// ErrUnfenced is in the error of a Sync after which the fence may not stand as it should: no proxy may run then.
var ErrUnfenced = errors.New("the fence around proxies does not stand")

// ErrShut is in the error of a Sync after which all is in force, and the fence stands, but the chain INPUT of iptables may
// still shut AppVMs out from their proxies.
var ErrShut = errors.New("iptables may shut AppVMs out from their proxies")

// AdmissionComment tells the one rule that is ours in the chain INPUT of iptables from the rules of others. Rules of older
// versions have the comment "vifproxy".
const AdmissionComment = "kept by vifproxyd"

// NatPriority is where our nat translates in hook prerouting: the first nat chain that translates decides.
const NatPriority = -101

// Backend keeps the kernel's rules equal to a State. Its methods must not be called concurrently.
type Backend interface {
	// String names what decides on this machine who reaches the firewall VM: nftables, or the chain INPUT of iptables.
	String() string

	// Sync makes the kernel hold exactly want, and repairs the rules around it where somebody changed them.
	// It returns how many writes that took: elements, and transactions of a repair; 0 if nothing differed.
	// What it writes into the chain INPUT of iptables is not counted. A binding
	// whose To changed moves without a moment in which the AppVM is locked out. If want has something that cannot be,
	// such as the same vif and address twice, nothing is written. After an error the kernel holds some state between the
	// old and the new; call Sync again.
	//
	// It calls inForce once, unless it fails before, as soon as connections that are made from then on to port 8100
	// go where want says. What may be left to take away then is the leave for AppVMs to reach their own old proxies. Where
	// want is what the last Sync has written, it may call it before it has looked whether somebody else undid that.
	//
	// If ctx ends after that, Sync may leave the rest to the next one, with the error of ctx.
	Sync(ctx context.Context, want State, inForce func()) (writes int, err error)

	// Refused returns how many packets of each uid the fence has refused since Open: one for each attempt to
	// connect, as a rule. Where rules are loaded anew, a few may go uncounted.
	Refused(ctx context.Context) (map[uint32]uint64, error)

	// Remove takes everything of ours out of the kernel. What is gone already is no error.
	Remove(ctx context.Context) error
}
