package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// farAway6 stands for a distant host by IPv6. No packet is sent to it.
var farAway6 = netip.MustParseAddr("2001:db8::1")

// ipv6Timeout is how long a host may take to answer by IPv6, and a resolver to tell its address.
const ipv6Timeout = 1500 * time.Millisecond

// ipv6 tries with a listed host whether a route for IPv6 leads anywhere. tinyproxy tries the addresses of a host in turn, those of IPv6
// first (RFC 6724, in glibc). It waits for each as long as the kernel tries: 133 s without an answer (Linux 6.18 with
// net.ipv4.tcp_syn_retries=6).
func (d *doctor) ipv6() {
	const check = "IPv6"
	way, _, err := wayTo(farAway6)
	if err != nil {
		return // then the kernel says so at once, and the next address is taken
	}
	name := way.Attrs().Name
	host, addr := d.hostByIPv6()
	if !addr.IsValid() {
		d.report(check, OK, "", "a route leads by %s; it is not tried, as no listed host is known to have an IPv6 address", name)
		return
	}
	ctx, cancel := context.WithTimeout(d.ctx, ipv6Timeout)
	defer cancel()
	conn, err := dialAs(ctx, d.proxyUID(), "tcp6", netip.AddrPortFrom(addr, 443))
	if err == nil {
		conn.Close()
	}
	if err == nil || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENETUNREACH) {
		d.report(check, OK, "", "a route leads by %s, and %s answers there", name, host)
		return
	}
	d.report(check, Wrong, fmt.Sprintf("turn IPv6 off if this VM is to have none: `sysctl net.ipv6.conf.all.disable_ipv6=1` here, and for good in "+
		"dom0 qvm-features %s ipv6 ''; or have the netvm route it", d.vmName()),
		"a route leads by %s, and nobody answers there: %s at %s. Proxies try the IPv6 addresses of a host first, and wait 133 s for each that is silent",
		name, host, addr)
}

// hostByIPv6 returns a listed host, and its IPv6 address if a resolver knows one and answers soon.
func (d *doctor) hostByIPv6() (host string, addr netip.Addr) {
	if host = d.exampleHost(); host == "" || len(d.answering) == 0 {
		return host, addr
	}
	ctx, cancel := context.WithTimeout(d.ctx, ipv6Timeout)
	defer cancel()
	reply, err := askName(ctx, d.answering[0], host, dnsmessage.TypeAAAA, d.proxyUID())
	if err != nil {
		return host, addr
	}
	for _, answer := range reply.Answers {
		if a, ok := answer.Body.(*dnsmessage.AAAAResource); ok {
			return host, netip.AddrFrom16(a.AAAA)
		}
	}
	return host, addr
}
