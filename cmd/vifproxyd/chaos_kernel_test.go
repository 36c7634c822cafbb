package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file looks at the kernel's bindings and sockets, over and over.

const tcpListen = 10 // a socket's state, include/net/tcp_states.h

// binding is one that the kernel holds.
type binding struct {
	vif  string
	addr netip.Addr
	to   netip.AddrPort
}

func (b binding) String() string { return fmt.Sprintf("%s %s to %s", b.vif, b.addr, b.to) }

// sampler reads the kernel's bindings and sockets.
type sampler struct {
	*site
	mu  sync.Mutex
	nft *nftables.Conn // used under mu
}

func newSampler(s *site) *sampler {
	p := &sampler{site: s}
	s.must(s.Do(func() (err error) {
		p.nft, err = nftables.New(nftables.AsLasting())
		return err
	}))
	s.Cleanup(func() { p.nft.CloseLasting() })
	return p
}

// bindings are those of nat and those of the switchboard.
func (p *sampler) bindings() (all map[binding]bool, err error) {
	all, err = p.natBindings()
	if err != nil {
		return nil, err
	}
	handed, err := p.bindingsOfSwitchboard()
	if err != nil || len(handed) == 0 {
		return all, err
	}
	err = p.Do(func() error {
		sockets, err := netlink.SocketDiagTCP(unix.AF_INET)
		if err != nil {
			return err
		}
		at := map[uint64]netip.AddrPort{}
		for _, s := range sockets {
			if addr, ok := netip.AddrFromSlice(s.ID.Source); ok && s.State == tcpListen {
				at[uint64(s.ID.Cookie[0])|uint64(s.ID.Cookie[1])<<32] = netip.AddrPortFrom(addr.Unmap(), s.ID.SourcePort)
			}
		}
		for key, socket := range handed {
			link, err := net.InterfaceByIndex(int(binary.NativeEndian.Uint32(key[:])))
			if to, listens := at[socket]; err == nil && listens { // otherwise it leads nowhere
				all[binding{link.Name, netip.AddrFrom4([4]byte(key[4:])), to}] = true
			}
		}
		return nil
	})
	return all, err
}

func (p *sampler) natBindings() (all map[binding]bool, err error) {
	all = map[binding]bool{}
	table := &nftables.Table{Name: "vifproxy", Family: nftables.TableFamilyIPv4}
	p.mu.Lock()
	elements, err := p.nft.GetSetElements(&nftables.Set{Table: table, Name: "ports"})
	p.mu.Unlock()
	if err != nil && strings.HasSuffix(err.Error(), unix.ENOENT.Error()) { // the library hides what it was
		return all, nil
	} else if err != nil {
		return nil, fmt.Errorf("read the bindings: %w", err)
	}
	for _, e := range elements {
		all[binding{
			vif:  strings.TrimRight(string(e.Key[:unix.IFNAMSIZ]), "\x00"),
			addr: netip.AddrFrom4([4]byte(e.Key[unix.IFNAMSIZ:])),
			to:   netip.AddrPortFrom(netip.AddrFrom4([4]byte(e.Val)), binary.BigEndian.Uint16(e.Val[4:])),
		}] = true
	}
	return all, nil
}

// listeners is the uid of each socket that listens in the firewall VM.
func (p *sampler) listeners() (all map[netip.AddrPort]uint32, err error) {
	all = map[netip.AddrPort]uint32{}
	err = p.Do(func() error {
		sockets, err := netlink.SocketDiagTCP(unix.AF_INET)
		for _, s := range sockets {
			if addr, ok := netip.AddrFromSlice(s.ID.Source); ok && s.State == tcpListen {
				all[netip.AddrPortFrom(addr.Unmap(), s.ID.SourcePort)] = s.UID
			}
		}
		return err
	})
	return all, err
}

// uidOf is the one of an AppVM's proxies.
func uidOf(vm netip.Addr) uint32 {
	return 0x70000000 | binary.BigEndian.Uint32(vm.AsSlice())&0xffffff
}

// sample checks that no binding leads to a socket that is not its AppVM's own proxy. One that leads nowhere
// is closed. What is looked at are bindings that are there before and after the look at the sockets.
func (p *sampler) sample() (bound []binding, err error) {
	before, err := p.bindings()
	if err != nil {
		return nil, err
	}
	sockets, err := p.listeners()
	if err != nil {
		return nil, err
	}
	after, err := p.bindings()
	if err != nil {
		return nil, err
	}
	for b := range before {
		uid, listens := sockets[b.to]
		wrong := uid != uidOf(b.addr)
		if b.vif == "lo" && b.addr.IsLoopback() { // by which the daemon asks a proxy that is a trial, and nobody else
			wrong = uid>>24 != 0x70 && uid>>24 != 0x71
		}
		if after[b] && b.addr != foreigner && listens && wrong {
			return nil, fmt.Errorf("%s on %s is bound to %s, where uid %#x listens", b.addr, b.vif, b.to, uid)
		}
		bound = append(bound, b)
	}
	return bound, nil
}

// watch samples until the run ends.
func (c *chaos) watch() {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-c.done:
			return
		}
		bound, err := c.sampler.sample()
		if err != nil {
			c.fail("%v", err)
		}
		c.mu.Lock()
		c.samples++
		if len(bound) > 0 {
			c.ports = bound
		}
		c.mu.Unlock()
	}
}

// target is a place where a proxy was lately.
func (c *chaos) target() netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ports) == 0 {
		return netip.AddrPort{}
	}
	return c.ports[rand.IntN(len(c.ports))].to
}
