// Package proxies starts and ends the processes of proxies, and says what the loop needs of them: a [Starter] starts them, a [Runner]
// brings one up and ends it. The real ones are [Tinyproxies].
//
// Concurrency: everything here may be called from any goroutine, and takes its time, so the loop has other goroutines call it. It
// calls itself PID, Listens and Clients, which do not wait.
package proxies

import (
	"context"
	"net/netip"

	"vifproxy/internal/policy"
	"vifproxy/internal/sockdiag"
	"vifproxy/tinyproxy"
)

// A Starter starts proxies. It is an interface so that the loop's tests need no processes.
type Starter interface {
	// Start returns once the proxy listens on the policy's gateway at port. Its error is a BadPolicy if tinyproxy refuses the
	// policy, and a TakenPort if another process has the port.
	Start(ctx context.Context, p *policy.Policy, port uint16) (Proxy, error)
	// Try starts a proxy that is asked one question and ends then. It has the given uid, and no part in the AppVM's files.
	Try(ctx context.Context, p *policy.Policy, uid uint32, port uint16, q tinyproxy.Request) (Trial, error)
	// Forget is called when nothing runs under an AppVM's name any more.
	Forget(name string)
}

// A Proxy is a process that listens, or has ended.
type Proxy interface {
	PID() int
	Done() <-chan struct{}
	WhenDone(func())                    // called when Done is closed
	Err() error                         // why it ended
	Stop()                              // asks it to end, then makes it; returns when nothing of it is left
	Kill()                              // the same without asking
	Clients() ([]netip.AddrPort, error) // the far ends of its AppVM's connections
	// Held returns the clients that it serves, in order, while others wait for it to accept them; nil if none wait.
	Held(sockdiag.Listeners) ([]netip.AddrPort, error)
	// Listens is nil if the kernel says that its port is its own, and leads AppVMs to it. HasPort is the first part of that, for all
	// proxies at once.
	Listens(sockdiag.Listeners) error
	HasPort(sockdiag.Listeners) error
	Socket() uint64 // the number of the socket by which it listens
	Prompt() bool   // the kernel sends what it writes at once (TCP_NODELAY)
	// Current makes the files under the AppVM's name describe this proxy. It may take a second.
	Current() error
}

// A Trial is a process that is there for one question.
type Trial interface {
	// Ask sends the question from an address of this machine. It returns when that is decided, or ctx ends.
	Ask(ctx context.Context, from netip.Addr) (tinyproxy.Outcome, error)
	Kill() // returns when nothing of it is left
}
