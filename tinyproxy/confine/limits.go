package confine

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// What a proxy needs grows with the clients that it serves at a time, its MaxClients.
const (
	generations = 4 // of one VM, at a time; they share its uid, by which RLIMIT_NPROC counts
	threads     = 16
	descriptors = 64
	memory      = 64 << 20 // of its own, writable
	perClient   = 1 << 20
	addresses   = 4 << 30 // what malloc reserves, and the Go runtime of vifproxy-confine: 1.2 GiB
)

func processes(clients int) uint64 { return uint64(clients + threads) }
func writable(clients int) uint64  { return memory + perClient*uint64(clients) }

// limits are the resource limits as vifproxy-confine takes them.
func limits(clients int, scratch bool) string {
	size := uint64(0) // it writes to its pipe, and to no file
	if scratch {
		size = 1 << 20
	}
	var all []string
	for _, l := range []struct {
		resource int
		value    uint64
	}{
		{unix.RLIMIT_CORE, 0},
		{unix.RLIMIT_FSIZE, size},
		{unix.RLIMIT_MEMLOCK, 0},
		{unix.RLIMIT_MSGQUEUE, 0},
		// A client has two connections, and while a name is looked up two sockets and a file.
		{unix.RLIMIT_NOFILE, descriptors + 4*uint64(clients)},
		{unix.RLIMIT_NPROC, generations * processes(clients)},
		{unix.RLIMIT_DATA, writable(clients)},
		{unix.RLIMIT_AS, addresses + writable(clients)},
	} {
		all = append(all, fmt.Sprintf("%d:%d", l.resource, l.value))
	}
	return strings.Join(all, ",")
}
