package supervisor

import (
	"fmt"
	"maps"
	"slices"
)

// PortRange is the ports that proxies listen on, both ends included. That of --listen-ports' default lies
// outside the kernel's ephemeral ports (net.ipv4.ip_local_port_range, 32768–60999): no outgoing connection is given one.
type PortRange struct{ First, Last uint16 }

// ports hands out ports in turn. A port comes round again as late as possible, so that nothing an AppVM still
// remembers of an old process (a SYN cookie, a NAT entry) meets the next one.
type ports struct {
	PortRange
	next uint16
	used map[uint16]bool
}

func newPorts(r PortRange) *ports {
	return &ports{PortRange: r, next: r.First, used: map[uint16]bool{}}
}

func (p *ports) take() (uint16, error) {
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

func (p *ports) release(port uint16) { delete(p.used, port) }

// taken returns the ports in use, in order.
func (p *ports) taken() []uint16 { return slices.Sorted(maps.Keys(p.used)) }
