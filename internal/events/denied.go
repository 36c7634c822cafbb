package events

import (
	"net/netip"
	"time"
)

// A Reason says which guard refused a request, or at which step it failed. All are tinyproxy's, as far as the daemon sees them:
// an AppVM that has taken over its proxy can make them up.
type Reason string

// The reasons, in the order in which a request meets them.
const (
	ReasonFull     Reason = "full"     // MaxClients connections are open: it waits
	ReasonTemplate Reason = "template" // Allow, Deny or BasicAuth; What is Allow or BasicAuth
	ReasonPort     Reason = "port"     // a tunnel (CONNECT) to a port that is not open for tunnels
	ReasonList     Reason = "list"     // no line of the list permits it, or one forbids it
	ReasonName     Reason = "name"     // the name has no address
	ReasonConnect  Reason = "connect"  // no connection; What is NoAnswer or one of those that follow it
)

// What became of a connection.
const (
	NoAnswer     = "no-answer"
	HostRefused  = "refused"       // by the host
	Closed       = "closed"        // by the host, without an answer
	FenceRefused = "fence"         // proxies may not go there
	NoRoute      = "no-route"      // nothing leads there
	OtherTable   = "another-table" // what the proxy sends does not leave the VM, and it is not the fence
	TooMany      = "too-many"      // the proxy has as many connections as one AppVM may have, or makes too many at once
)

// A Denial is a request that a proxy did not serve. An AppVM that owns its proxy can make up any of it, so it is a hint for
// people and decides nothing.
type Denial struct {
	VM string
	IP netip.Addr
	// Host is what the AppVM sent: a host name, or a URL if the template sets FilterURLs. With ReasonName and ReasonConnect it
	// is the Upstream if one connects for the host. It is empty if tinyproxy does not say it. Unprintable characters are
	// escaped, because journalctl -x would give them to the terminal, so its at most 255 bytes can have become 1020.
	Host   string
	Port   uint16 // 0 if tinyproxy does not say it
	Reason Reason
	What   string // the same in more detail, as far as tinyproxy says it: Allow, BasicAuth, closed, no-answer
	Why    string // for people; escaped, 1020 bytes at most

	// The rest is for finding out what became of the connection.
	Waiting  bool          // it has not failed yet
	Took     time.Duration // how long the look-up or the connection has lasted; 0 if that is not known
	UID      uint32        // of the proxy
	Upstream bool          // Host is an Upstream of the template
}

// A Denied lists what one AppVM asked for and did not get.
type Denied struct {
	VM    string       `json:"vm"`
	IP    string       `json:"ip"`
	Hosts []DeniedHost `json:"hosts"` // those that browsers ask for by themselves last, else newest first; never null on the wire
	// Forgotten counts requests for hosts that are not listed any more, because newer ones took their place.
	Forgotten int `json:"forgotten"`
}

// A DeniedHost is a host, or a URL if the template sets FilterURLs, that an AppVM asked for at one port and did not reach for one
// reason. Unprintable characters are escaped.
type DeniedHost struct {
	Host   string `json:"host"`           // empty if it is not known
	Port   uint16 `json:"port,omitempty"` // 0 if it is not known
	Reason Reason `json:"reason"`
	What   string `json:"what,omitempty"` // the same in more detail, in a word, the last time
	Why    string `json:"why,omitempty"`  // the same for a person
	// Browser is what browsers want of this host by themselves, for a person; empty if none is known to ask for it.
	Browser string `json:"browser,omitempty"`

	Count int       `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}
