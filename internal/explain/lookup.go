package explain

import (
	"context"
	"errors"
	"net/netip"
)

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
