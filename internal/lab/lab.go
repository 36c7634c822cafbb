// Package lab builds a firewall VM, AppVMs and an internet out of network namespaces on one machine.
//
// What vifproxy does happens between the kernel, tinyproxy and the packet filter, so its tests use the real
// ones. A Lab gives them a place: a firewall namespace with the rules of a Qubes firewall VM, AppVMs whose
// vifs come and go in the order in which real Xen brings and takes them, and an internet of origin servers
// and name servers that know the names a test registers. Every Lab is on its own: many can stand side by
// side, and nothing touches the machine's own network.
//
//	AppVM namespace          firewall namespace                 internet namespace
//	eth0 10.137.0.11/32 ──── vif2.0 10.138.1.1/32
//	                                    eth0 192.0.2.2/24 ───── uplink 192.0.2.1/24
//	eth0 10.137.0.12/32 ──── vif3.0 10.138.1.1/32               origins, name servers, a LAN
//
// The lab needs root, iproute2 and nftables (iptables for the R41 ruleset).
package lab

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// Gateway is the address that every vif carries, unless VM.Gateway says otherwise.
var Gateway = netip.MustParseAddr("10.138.1.1")

// ProxyPort is where an AppVM finds its proxy, on its gateway.
const ProxyPort = 8100

var (
	uplinkFirewall = netip.MustParsePrefix("192.0.2.2/24")
	uplinkInternet = netip.MustParsePrefix("192.0.2.1/24")
)

// Options of a Lab. The zero value is an R42 lab with a name of its own.
type Options struct {
	Name    string // part of the namespaces' names; "" for a number that this process has not used yet
	Ruleset Ruleset
}

// Lab is a firewall VM, its AppVMs and an internet. All methods may be used from several goroutines.
type Lab struct {
	Name    string // what the names of all its namespaces start with
	Ruleset Ruleset
	CA      []byte // PEM, the authority of all origins' certificates

	roots *x509.CertPool // the same
	fw    *space
	nft   *nftables.Conn // in fw; used under mu
	net   *internet

	mu     sync.Mutex // one plug at a time, as with Xen's hotplug lock
	guests map[string]*guest
	vifs   map[string]*vif
	closed bool
}

var labs atomic.Int64

// New builds a lab. The caller ends it with Close. What labs of killed processes left is removed first.
func New(ctx context.Context, o Options) (*Lab, error) {
	if err := Reclaim(); err != nil {
		return nil, fmt.Errorf("remove what an earlier lab left: %w", err)
	}
	if o.Name == "" {
		o.Name = strconv.FormatInt(labs.Add(1), 10)
	}
	if o.Ruleset == "" {
		o.Ruleset = R42
	}
	name, err := ownedName(o.Name)
	if err != nil {
		return nil, err
	}
	l := &Lab{Name: name, Ruleset: o.Ruleset, guests: map[string]*guest{}, vifs: map[string]*vif{}}
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("build lab %s: %w", name, err), l.Close())
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context) (err error) {
	if l.fw, err = newSpace(l.Name + "-fw"); err != nil {
		return err
	}
	if l.nft, err = nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(l.fw.ns))); err != nil {
		return err
	}
	if err := l.fw.resolve(); err != nil {
		return err
	}
	// The rules come before any link, as at boot.
	if err := l.LoadRules(ctx); err != nil {
		return err
	}
	if l.net, err = newInternet(l.Name + "-net"); err != nil {
		return err
	}
	l.CA, l.roots = l.net.authority.pem, x509.NewCertPool()
	l.roots.AppendCertsFromPEM(l.CA)
	if err := l.fw.do(l.connectUplink); err != nil {
		return fmt.Errorf("connect the uplink: %w", err)
	}
	return l.net.serve()
}

func (l *Lab) connectUplink() error {
	settings := map[string]string{"ipv4/ip_forward": "1"}
	if l.Ruleset == R41 { // its rules are all IPv4
		settings["ipv6/conf/all/disable_ipv6"] = "1"
		settings["ipv6/conf/default/disable_ipv6"] = "1"
	}
	if err := sysctl(settings); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "uplink", PeerNamespace: netlink.NsFd(l.net.space.ns)}
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	if err := bringUp("lo"); err != nil {
		return err
	}
	if err := bringUp("eth0", uplinkFirewall); err != nil {
		return err
	}
	if err := l.net.space.do(l.net.connect); err != nil {
		return err
	}
	if err := awaitCarrier("eth0"); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Gw: uplinkInternet.Addr().AsSlice()})
}

// Close ends every process in the lab's namespaces and the lab's servers, and removes the namespaces. Closing
// twice is harmless. Connections that Dial returned are the caller's to close.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var spaces []*space
	for _, g := range l.guests {
		spaces = append(spaces, g.space)
	}
	if l.fw != nil {
		spaces = append(spaces, l.fw)
	}
	var names []string
	for _, s := range spaces {
		names = append(names, s.name)
	}
	problems := []error{endInside(names...)}
	if l.nft != nil {
		problems = append(problems, l.nft.CloseLasting())
	}
	if l.net != nil {
		l.net.close()
		spaces = append(spaces, l.net.space)
	}
	for _, s := range spaces {
		problems = append(problems, s.remove())
	}
	return errors.Join(problems...)
}

// Command prepares a program to run in the firewall VM, where the lab's names resolve. It runs under
// `ip netns exec`, which binds the lab's resolv.conf over the machine's and then becomes the program: signals
// sent to the process reach the program itself. It sees the machine's control groups.
func (l *Lab) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	const withGroups = `mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; exec "$0" "$@"` // ip has mounted another /sys
	return commandIn(ctx, l.Name+"-fw", "sh", append([]string{"-c", withGroups, name}, args...))
}

// VMCommand prepares a program to run in an AppVM, where the lab's names resolve too, as far as the firewall VM lets it ask.
func (l *Lab) VMCommand(ctx context.Context, vm, name string, args ...string) *exec.Cmd {
	return commandIn(ctx, l.vmSpace(vm), name, args)
}

func (l *Lab) vmSpace(vm string) string { return l.Name + "-vm-" + vm }

func commandIn(ctx context.Context, space, name string, args []string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", space, name}, args...)...)
}

// Do runs f on a thread in the firewall VM. Sockets that f opens stay there; goroutines that f starts do not.
func (l *Lab) Do(f func() error) error { return l.fw.do(f) }

// DoVM runs f on a thread in an AppVM, like Do.
func (l *Lab) DoVM(vm string, f func() error) error {
	g, err := l.guest(vm)
	if err != nil {
		return err
	}
	return g.space.do(f)
}

// DoInternet runs f on a thread outside, where every address that the internet owns can be listened on.
func (l *Lab) DoInternet(f func() error) error { return l.net.space.do(f) }

// bringUp sets a link of the thread's namespace up and gives it addresses.
func bringUp(name string, addrs ...netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(a)}); err != nil {
			return fmt.Errorf("add %v to %s: %w", a, name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// sysctl sets files under /proc/sys/net, which shows the settings of the thread's namespace.
func sysctl(settings map[string]string) error {
	for name, value := range settings {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func host(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }
