// Package handover is what vifproxy-switchboard hands over to vifproxyd: maps of BPF, and links that keep its programs attached.
//
// vifproxy-switchboard has the privileges to load programs, and ends at once. The daemon has none of them, and works with the
// descriptors: updates, look-ups and deletions by the descriptor of a map want no capability since Linux 6.0, whatever
// kernel.unprivileged_bpf_disabled says (commit c8644cd0efe7).
//
// Concurrency: any goroutine may call anything here.
package handover

import "golang.org/x/sys/unix"

// A Map is what one map is like. Its name is that of its descriptor.
type Map struct {
	Name                           string
	Type                           uint32 // BPF_MAP_TYPE_…
	KeySize, ValueSize, MaxEntries uint32
	Flags                          uint32
}

// The maps. Numbers are in the machine's order, addresses in network order.
//
//	bindings   index of the vif (32 bits), IPv4 address of the AppVM → cookie of the listening socket that serves it (64 bits)
//	sockets    cookie of a listening socket (64 bits) → the socket; a look-up from here gives the cookie again
//	expected   IPv4 address, port (32 bits) → AboutToListen or Listens (32 bits): where the daemon has a proxy
//	port       0 (32 bits) → the port at which AppVMs find their proxies (32 bits); while it is 0, nothing is taken
//
// The cookie of a socket is the number that sock_diag(7) gives, and that no other socket gets until the next boot. A socket that
// ends, or that listens no more, leaves the map by itself.
var (
	Bindings = Map{"vifproxy-bindings", unix.BPF_MAP_TYPE_HASH, 8, 8, maxBindings, unix.BPF_F_NO_PREALLOC}
	Sockets  = Map{"vifproxy-sockets", unix.BPF_MAP_TYPE_SOCKHASH, 8, 8, maxSockets, 0}
	Expected = Map{"vifproxy-expected", unix.BPF_MAP_TYPE_HASH, 8, 4, maxSockets, unix.BPF_F_NO_PREALLOC}
	Port     = Map{"vifproxy-port", unix.BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0}
)

// States of a place in the map of expected sockets. The first socket that listens there changes it.
const (
	AboutToListen = 1
	Listens       = 2
)

// Names of the other descriptors.
const (
	ConnectionsName = "vifproxy-connections" // the link of the program for sockets of the proxies' cgroup
	LookupName      = "vifproxy-lookup"      // the link of the program that hands connections over
	RefusedName     = "vifproxy-refused"     // a file with the reason why there is none of all this
)

const (
	maxBindings = 4096
	maxSockets  = 8192
)
