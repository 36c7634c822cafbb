package tinyproxy

import (
	"net/netip"
	"time"
)

// Reason says which guard refused a request, or at which step it failed.
type Reason string

// The reasons, in the order in which a request meets them.
const (
	Full     Reason = "full"     // MaxClients connections are open: it waits
	Template Reason = "template" // Allow, Deny or BasicAuth
	Port     Reason = "port"     // a tunnel to a port that ConnectPort does not name
	List     Reason = "list"     // no line of the list permits it, or one forbids it
	Name     Reason = "name"     // the name has no address
	Connect  Reason = "connect"  // nobody answers there, or something is in the way
)

// Denied is a request that a proxy did not serve. An AppVM that owns its proxy can make up any of it, so it is a hint for
// people and decides nothing.
type Denied struct {
	VM   string
	Addr netip.Addr
	// Host is what the AppVM sent: a host name, or a URL where the template sets FilterURLs. With Name and Connect it is the
	// Upstream if one connects for the host; it is empty if tinyproxy does not say it. What is not printable is escaped
	// (journalctl -x would give it to the terminal), so its at most 255 bytes can have become 1020.
	Host string
	// Port is 0 if tinyproxy does not say it.
	Port   uint16
	Reason Reason
	What   string // the same in more detail, as far as tinyproxy says it: Allow, BasicAuth, closed, no-answer
	Why    string // for people; escaped, 1020 bytes at most
	// Waiting is a Connect that has not failed yet.
	Waiting bool
	// Took is how long a Connect or Name has lasted; 0 if it is not known.
	Took time.Duration
	// UID is the proxy's.
	UID uint32
	// Upstream is set if Host is an Upstream of the template.
	Upstream bool
}
