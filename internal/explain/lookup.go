package explain

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
)

// lookupError returns why a name has no address, in words of our own.
func lookupError(err error) string {
	dns := (*net.DNSError)(nil)
	if !errors.As(err, &dns) {
		return err.Error()
	}
	// The words of package net (Go 1.26): "read udp 192.0.2.2:41564->10.139.1.2:53: i/o timeout", "server misbehaving".
	_, why, isCall := strings.Cut(dns.Err, "->")
	why = why[strings.LastIndex(why, ": ")+1:]
	switch {
	case dns.IsNotFound:
		return dns.Err // no such host
	case dns.IsTimeout:
		return "no name server has answered"
	case dns.Server == "" || !isCall && dns.Err != "server misbehaving":
		return dns.Err
	case !isCall:
		return "the name server " + dns.Server + " answers with an error"
	case strings.HasSuffix(why, syscall.EPERM.Error()): // what netfilter drops on its way out
		return "a rule of this VM's firewall drops questions to the name server " + dns.Server
	}
	return "the name server " + dns.Server + " cannot be asked:" + why
}

// addressesOf returns a host's addresses, as tinyproxy gets them when it connects.
func (x Explainer) addressesOf(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	addrs, err := x.LookUp(ctx, host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("it has none")
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap().WithZone("")
	}
	return addrs, err
}
