package hostname

import (
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// Registrable reports whether, by the public suffix list, a name is one that somebody can own, or is below one.
func Registrable(domain string) bool {
	suffix, known := publicSuffix(domain)
	return known && suffix != strings.ToLower(domain)
}

// publicSuffix returns the part of a name below which anybody can have a name, and whether the public suffix list has it.
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
