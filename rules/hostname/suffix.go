package hostname

import (
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// Registrable reports whether a name is, or is below, what somebody can own according to the public suffix list.
func Registrable(domain string) bool {
	suffix, known := publicSuffix(domain)
	return known && suffix != strings.ToLower(domain)
}

// publicSuffix returns the part of a name below which anybody can have a name, and whether the list has it.
func publicSuffix(domain string) (suffix string, known bool) {
	if _, err := netip.ParseAddr(domain); err == nil {
		return "", false
	}
	suffix, icann := publicsuffix.PublicSuffix(strings.ToLower(domain))
	return suffix, icann || strings.Contains(suffix, ".")
}

// TooWide reports whether all hosts below domain belong to too many people for a white list.
func TooWide(domain string) bool {
	suffix, known := publicSuffix(domain)
	return known && suffix == strings.ToLower(domain)
}
