package proxies

import (
	"fmt"
	"maps"
	"slices"
)

// A PortRange is the ports that proxies listen on, both ends included. The default of --listen-ports is outside the kernel's ephemeral
// ports (net.ipv4.ip_local_port_range, 32768–60999), so no outgoing connection is given one.
type PortRange struct{ First, Last uint16 }

// Ports hands out ports in turn. A port comes round again as late as possible, so that nothing that an AppVM still remembers of an old
// process (a SYN cookie, a NAT entry) meets the next one. Ports belongs to one goroutine.
type Ports struct {
	PortRange
	next uint16
	used map[uint16]bool
}

// NewPorts returns a range of which no port is in use.
func NewPorts(r PortRange) *Ports {
	return &Ports{PortRange: r, next: r.First, used: map[uint16]bool{}}
}

// Take returns a port that is not in use, and is from now on.
func (p *Ports) Take() (uint16, error) {
	for range int(p.Last-p.First) + 1 {
		port := p.next
		if p.next++; p.next > p.Last || p.next == 0 {
			p.next = p.First
		}
		if !p.used[port] {
			p.used[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("all ports from %d to %d are in use: give vifproxyd a wider --listen-ports", p.First, p.Last)
}

// Use takes a port for one in use.
func (p *Ports) Use(port uint16) { p.used[port] = true }

// Release gives a port back.
func (p *Ports) Release(port uint16) { delete(p.used, port) }

// InUse reports whether a port is in use.
func (p *Ports) InUse(port uint16) bool { return p.used[port] }

// AllInUse returns the ports in use, sorted.
func (p *Ports) AllInUse() []uint16 { return slices.Sorted(maps.Keys(p.used)) }
