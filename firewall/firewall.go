// Package firewall says which AppVM reaches which proxy, and where proxies connect to. Its rooms keep rules in the kernel that
// make it so: backend chooses and opens, nft keeps our own tables, ipt keeps one rule beside iptables, and forward reads the
// chains of other programs.
//
// Every AppVM connects to port 8100 of its gateway. Each proxy listens on a port of its own. A Binding sends the packets that
// come in on one vif, from one address, on to one proxy; nothing else leads to a proxy. The rules for this have three parts:
//
//   - A nat rule sends a bound AppVM's connections to port 8100 on to its proxy.
//   - An accept rule admits them, because the firewall VM rejects what AppVMs send to the firewall VM itself.
//   - The guard resets a new connection to a port where a proxy listens unless a binding allows it. It looks at the SYN flag
//     and not at the state of connection tracking: the entry of an old connection would count a hostile AppVM's new SYN as
//     established, and by then the port may be another's.
//
// The other direction is the fence, see Fence. backend.Open puts it up before any proxy runs, and it stands until Remove.
//
// An established connection no longer depends on its binding, because connection tracking keeps the translation. So a binding
// can move to a new proxy, or go, without harm to it. To cut the connection, end the old proxy.
//
// All of it is in tables of our own. Chains of other programs also decide, and need one rule in theirs: in Qubes' table, or in
// the chain INPUT of iptables.
//
// A backend writes the difference between what the kernel holds and what it should hold. It believes nothing that it
// remembers unless the kernel says that nobody has changed anything since: nftables counts its transactions, and the
// chain INPUT is read at each Sync. So the next Sync repairs whatever happened in between, such as another program's flush, a
// failed Sync, or a crash.
//
// Concurrency: Binding, State, Fence and Verdict are values. One goroutine at a time may use a Backend, but for what a Pinner does. Judge, Attempts and
// HasRoute may be called from anywhere; they are about the network of the calling thread.
package firewall

import (
	"context"
	"errors"
)

// ErrUnfenced is in the error of a Sync if the fence may not stand after it. No proxy may run then.
var ErrUnfenced = errors.New("the fence around proxies does not stand")

// ErrShut is in the error of a Sync if everything is in force, and the fence stands, but AppVMs may still be kept from their proxies: by
// the chain INPUT of iptables, or because somebody has detached the programs of the switchboard or frozen its bindings.
var ErrShut = errors.New("AppVMs may be shut out from their proxies")

// AdmissionComment is the comment of our one rule in the chain INPUT of iptables. Rules of older versions have the comment
// "vifproxy".
const AdmissionComment = "kept by vifproxyd"

// NatPriority is the priority at which our nat translates in hooks prerouting and output. The first nat chain that translates decides.
const NatPriority = -101

// A Backend keeps the kernel's rules equal to a State. Its methods must not be called concurrently, but those of Pinner may be called
// at any time.
type Backend interface {
	Pinner

	// String names what decides on this machine which packets reach the firewall VM: nftables, or the chain INPUT of iptables.
	String() string

	// Sync makes the kernel hold exactly want, and repairs the rules around it if somebody changed them. It returns the number of
	// writes: elements, and transactions of a repair, without those in the chain INPUT of iptables; 0 if nothing differed.
	//
	// A binding whose To changed moves without a moment in which the AppVM is locked out. If want contains something
	// impossible, such as the same vif and address twice, Sync writes nothing. After an error the kernel holds some state
	// between the old and the new; call Sync again.
	//
	// Sync calls inForce once, unless it fails before, as soon as new connections to port 8100 go where want says. AppVMs may
	// then still be allowed to reach their own old proxies. If want is what the last Sync has written, it may call inForce
	// before it has looked whether somebody else undid that.
	//
	// If ctx ends after that, Sync may leave the rest to the next Sync, and returns the error of ctx.
	Sync(ctx context.Context, want State, inForce func()) (writes int, err error)

	// Refused returns how many packets of each uid the fence has refused since Open, usually one for each attempt to
	// connect. A few may go uncounted when rules are loaded again.
	Refused(ctx context.Context) (map[uint32]uint64, error)

	// Remove takes everything of ours out of the kernel. It is no error if something is gone already.
	Remove(ctx context.Context) error
}
