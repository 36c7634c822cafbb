package tinyproxy

import (
	"net/netip"
	"sync"
)

// Every AppVM's proxy has its own uid, and a gid of the same number. So no two proxies can touch each other, the firewall can
// fence each of them, and leftovers of an earlier run can be recognized. systemd leaves this range unused
// (https://systemd.io/UIDS-GIDS: its container range ends at 0x6fffffff, the next one begins at 0x7ffe0000).
const (
	FirstUID = 0x70000000 // 10.0.0.0/8: by the low 24 bits of the address
	otherUID = 0x71000000 // any other address: next free number
	LastUID  = 0x71ffffff
	NamesUID = LastUID // the resolver: fenced and reaped like a proxy; otherUID does not count so far
)

// IsProxyUID reports whether a uid or gid is in the range of the proxies.
func IsProxyUID(id uint32) bool { return FirstUID <= id && id <= LastUID }

// Identities assigns uids to AppVMs. The zero value is ready for use, by several goroutines at once.
type Identities struct {
	mu    sync.Mutex
	other map[netip.Addr]uint32
}

// UID returns the uid, and gid, of the proxies of the AppVM with this IPv4 address. It stays the same for the life of i. For
// an address in 10.0.0.0/8, where all AppVMs of Qubes are, it is always and everywhere the same.
func (i *Identities) UID(addr netip.Addr) uint32 {
	addr = addr.Unmap()
	if b := addr.As4(); b[0] == 10 {
		return FirstUID | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	uid, ok := i.other[addr]
	if !ok {
		if i.other == nil {
			i.other = make(map[netip.Addr]uint32)
		}
		uid = otherUID + uint32(len(i.other))
		i.other[addr] = uid
	}
	return uid
}
