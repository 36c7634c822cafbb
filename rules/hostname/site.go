package hostname

import (
	"net/netip"

	"golang.org/x/net/publicsuffix"
)

// Site returns the part of a host name that one owner has: one label more than its public suffix, by the public suffix list. A name that is
// a public suffix, and an address, it returns as they are.
func Site(name string) string {
	if _, err := netip.ParseAddr(name); err == nil {
		return name
	}
	if site, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return site
	}
	return name
}
