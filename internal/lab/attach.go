package lab

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// VM is one connection of an AppVM to the firewall VM. The same Name with another DomID or DevID is a second
// vif of the same AppVM: an HVM has two with one IP, its own and that of its stub domain.
type VM struct {
	Name    string
	IP      netip.Addr
	DomID   int
	DevID   int
	Gateway netip.Addr // the zero Addr means the package's Gateway
}

// Vif is the name of the connection's backend interface, as Xen makes it.
func (vm VM) Vif() string { return fmt.Sprintf("vif%d.%d", vm.DomID, vm.DevID) }

// Step is how far an attach has come. The steps and their order are those recorded on Xen 4.17 with the
// hotplug script vif-route-qubes: what AttachUpTo leaves out has visibly not happened yet.
type Step int

// The steps of an attach.
const (
	Created  Step = 1 + iota // the link is there, down, in group 0
	Fenced                   // the AppVM's neighbour entry and its antispoofing rules
	Up                       // up and in group 2, one message
	Routed                   // host route to the AppVM
	Complete                 // the gateway's address on the vif; last of all
)

// vif is one plugged connection.
type vif struct {
	name  string
	vm    VM
	nic   string // its other end, inside the AppVM
	guest *guest
	index int
	done  Step
}

// guest is an AppVM. It outlives its vifs, as a running AppVM does when its netvm is switched.
type guest struct {
	space *space
	vifs  []*vif // oldest first
	using *vif   // the one that packets leave by
}

// Every AppVM has the same MAC address in Qubes, and every vif the one that Xen gives to backends.
var (
	guestMAC = net.HardwareAddr{0x00, 0x16, 0x3e, 0x5e, 0x6c, 0x00}
	vifMAC   = net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}
)

const (
	maxDomID  = 32752 // Xen's; vif-route-qubes makes route metrics of it so that the later vif wins
	appVMs    = 2     // the link group in which Qubes keeps the vifs of AppVMs
	bootProto = 3     // RTPROT_BOOT: what `ip route add` writes
)

// Qubes' grammar of VM names; it also keeps a name from being a path.
var vmName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,30}$`)

// Attach plugs an AppVM in, or finishes an attach that AttachUpTo left half way.
func (l *Lab) Attach(vm VM) error { return l.AttachUpTo(vm, Complete) }

// AttachUpTo does the steps of an attach up to and including last.
func (l *Lab) AttachUpTo(vm VM, last Step) error {
	_, err := l.AttachTimed(vm, last)
	return err
}

// AttachTimed is AttachUpTo, and tells when the last step began, all that leads to it being ready.
func (l *Lab) AttachTimed(vm VM, last Step) (began time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if began, err = l.attach(vm, last); err != nil {
		err = fmt.Errorf("attach %s (%v) as %s: %w", vm.Name, vm.IP, vm.Vif(), err)
	}
	return began, err
}

func (l *Lab) attach(vm VM, last Step) (began time.Time, err error) {
	if !vm.Gateway.IsValid() {
		vm.Gateway = Gateway
	}
	switch {
	case !vmName.MatchString(vm.Name):
		return began, fmt.Errorf("%q is not a name for a VM", vm.Name)
	case !vm.IP.Is4() || !vm.Gateway.Is4():
		return began, errors.New("the VM and its gateway need IPv4 addresses")
	case vm.DomID < 0 || vm.DomID > maxDomID || vm.DevID < 0:
		return began, fmt.Errorf("a domid lies between 0 and %d, a devid is not negative", maxDomID)
	}
	v := l.vifs[vm.Vif()]
	if v != nil && (v.vm != vm || v.done >= last) {
		return began, fmt.Errorf("the vif is already there, for %s (%v)", v.vm.Name, v.vm.IP)
	}
	if v == nil {
		if v, err = l.create(vm); err != nil {
			return began, err
		}
	}
	err = l.fw.do(func() error {
		for ; v.done < last; v.done++ {
			began = time.Now()
			if err := l.step(v, v.done+1); err != nil {
				return err
			}
		}
		if v.done < Up {
			return nil
		}
		return awaitCarrier(v.name)
	})
	if err != nil || v.done < Up {
		return began, err
	}
	return began, v.guest.space.do(func() error { return awaitCarrier(v.nic) })
}

// awaitCarrier waits until the kernel has noticed that a link of the thread's namespace has a carrier. Until
// then the end of a veth pair that came up first drops what it is given (net/core/link_watch.c): a packet
// is lost now and then, and TCP waits a second to repeat it. Since Linux 6.8 the question itself is enough;
// before, it takes some milliseconds.
func awaitCarrier(name string) error {
	for range 5000 {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("link %s has no carrier after 5 seconds", name)
}

// create brings the link and connects the AppVM's end of it.
func (l *Lab) create(vm VM) (*vif, error) {
	g := l.guests[vm.Name]
	if g == nil {
		s, err := newSpace(l.vmSpace(vm.Name))
		if err != nil {
			return nil, err
		}
		g = &guest{space: s}
		l.guests[vm.Name] = g
		if err := errors.Join(s.resolve(), s.do(prepareGuest)); err != nil {
			return nil, err
		}
	}
	v := &vif{name: vm.Vif(), vm: vm, nic: g.freeNIC(), guest: g, done: Created}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = v.name, vifMAC
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: v.nic, PeerHardwareAddr: guestMAC,
		PeerNamespace: netlink.NsFd(g.space.ns)}
	err := l.fw.do(func() (err error) {
		if err = netlink.LinkAdd(link); err == nil {
			v.index = link.Index
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create the link: %w", err)
	}
	l.vifs[v.name] = v
	g.vifs = append(g.vifs, v)
	return v, g.space.do(v.configureNIC)
}

// step does one step of the hotplug script, on a thread of the firewall VM.
func (l *Lab) step(v *vif, s Step) error {
	switch s {
	case Fenced:
		err := netlink.NeighAdd(&netlink.Neigh{LinkIndex: v.index, State: netlink.NUD_PERMANENT,
			IP: v.vm.IP.AsSlice(), HardwareAddr: guestMAC})
		if err != nil {
			return fmt.Errorf("add the neighbour entry: %w", err)
		}
		return l.fence(v.name, v.vm.IP)
	case Up:
		if err := sysctl(map[string]string{"ipv4/conf/" + v.name + "/proxy_arp": "1"}); err != nil {
			return err
		}
		return upInGroup(v.index, appVMs)
	case Routed:
		return netlink.RouteAdd(&netlink.Route{LinkIndex: v.index, Dst: host(v.vm.IP), Protocol: bootProto,
			Scope: netlink.SCOPE_LINK, Priority: maxDomID - v.vm.DomID})
	case Complete:
		return netlink.AddrAdd(v.link(), &netlink.Addr{IPNet: host(v.vm.Gateway)})
	}
	return fmt.Errorf("no such step: %d", s)
}

func (v *vif) link() netlink.Link {
	return &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: v.name, Index: v.index}}
}

// upInGroup sets a link up and into a group with one message, so that, as recorded on Xen, nobody ever sees
// it up in another group. The netlink package has no call for it.
func upInGroup(index int, group uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(index), unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// Detach unplugs a vif the way Xen and the hotplug script do: the AppVM's end goes first and the carrier with
// it; then the vif goes down, which takes its route without a message; the gateway's address; the link; and
// last the antispoofing rules.
func (l *Lab) Detach(vif string) error { return l.unplug(vif, true) }

// Vanish removes the link and does no other step of a detach, as when the backend is torn down under the
// hotplug script. Its antispoofing rules stay behind.
func (l *Lab) Vanish(vif string) error { return l.unplug(vif, false) }

func (l *Lab) unplug(name string, orderly bool) error {
	v, err := l.loosen(name, orderly)
	if v == nil {
		return err
	}
	// Outside the lock: the kernel makes whoever deletes a link wait 20 ms for RCU, many can wait at a time.
	err = errors.Join(err, l.fw.do(func() error { return netlink.LinkDel(v.link()) }), l.forget(v, orderly))
	if err != nil {
		return fmt.Errorf("detach %s (%v) from %s: %w", v.vm.Name, v.vm.IP, name, err)
	}
	return nil
}

// loosen does what comes before the link's end, and takes the vif off the list.
func (l *Lab) loosen(name string, orderly bool) (*vif, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.vifs[name]
	if v == nil {
		return nil, fmt.Errorf("detach %s: no such vif in lab %s", name, l.Name)
	}
	delete(l.vifs, name)
	if !orderly {
		return v, nil
	}
	if err := v.guest.space.do(func() error { return setDown(v.nic) }); err != nil {
		return v, err
	}
	return v, l.fw.do(func() error {
		var problems []error
		if v.done >= Up {
			problems = append(problems, netlink.LinkSetDown(v.link()))
		}
		if v.done >= Complete {
			problems = append(problems, netlink.AddrDel(v.link(), &netlink.Addr{IPNet: host(v.vm.Gateway)}))
		}
		return errors.Join(problems...)
	})
}

// forget does what comes after the link's end.
func (l *Lab) forget(v *vif, orderly bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var problems []error
	if orderly && v.done >= Fenced {
		problems = append(problems, l.unfence(v.name, v.vm.IP, !l.plugged(v.vm.IP)))
	}
	g := v.guest
	g.vifs = slices.DeleteFunc(g.vifs, func(o *vif) bool { return o == v })
	if g.using == v && len(g.vifs) > 0 {
		problems = append(problems, g.space.do(g.vifs[len(g.vifs)-1].use))
	}
	return errors.Join(problems...)
}

// Connections lists what is attached, half way or wholly, by domid and devid.
func (l *Lab) Connections() []VM {
	l.mu.Lock()
	defer l.mu.Unlock()
	var vms []VM
	for _, v := range l.vifs {
		vms = append(vms, v.vm)
	}
	slices.SortFunc(vms, func(a, b VM) int {
		return cmp.Or(cmp.Compare(a.DomID, b.DomID), cmp.Compare(a.DevID, b.DevID))
	})
	return vms
}

func (l *Lab) plugged(ip netip.Addr) bool {
	for v := range maps.Values(l.vifs) {
		if v.vm.IP == ip {
			return true
		}
	}
	return false
}

// Use makes what an AppVM sends leave by the given vif of it. An AppVM uses its first vif until that goes.
func (l *Lab) Use(vif string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.vifs[vif]
	if v == nil {
		return fmt.Errorf("use %s: no such vif in lab %s", vif, l.Name)
	}
	return v.guest.space.do(v.use)
}

func (l *Lab) guest(name string) (*guest, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.guests[name]
	if g == nil {
		return nil, fmt.Errorf("no AppVM %q in lab %s", name, l.Name)
	}
	return g, nil
}

// The rest happens inside the AppVM, where Qubes' setup-ip does it.

func prepareGuest() error {
	// Without IPv6, as in a Qubes without it: the AppVM sends nothing that a test did not ask for.
	err := sysctl(map[string]string{"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"})
	if err != nil {
		return err
	}
	return bringUp("lo")
}

func (g *guest) freeNIC() string {
	for n := 0; ; n++ {
		name := fmt.Sprintf("eth%d", n)
		if !slices.ContainsFunc(g.vifs, func(v *vif) bool { return v.nic == name }) {
			return name
		}
	}
}

// configureNIC gives the AppVM's end its address and a fixed entry for the gateway, so that no ARP is needed.
func (v *vif) configureNIC() error {
	if err := bringUp(v.nic, netip.PrefixFrom(v.vm.IP, 32)); err != nil {
		return err
	}
	link, err := netlink.LinkByName(v.nic)
	if err != nil {
		return err
	}
	err = netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: v.vm.Gateway.AsSlice(), HardwareAddr: vifMAC})
	if err != nil {
		return err
	}
	if len(v.guest.vifs) == 1 {
		return v.use()
	}
	return nil
}

// use routes everything through the gateway behind this vif.
func (v *vif) use() error {
	link, err := netlink.LinkByName(v.nic)
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	toGateway := &netlink.Route{LinkIndex: index, Dst: host(v.vm.Gateway), Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteReplace(toGateway); err != nil {
		return fmt.Errorf("route to the gateway: %w", err)
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: index, Gw: v.vm.Gateway.AsSlice()}); err != nil {
		return fmt.Errorf("route through the gateway: %w", err)
	}
	v.guest.using = v
	return nil
}

func setDown(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetDown(link)
}
