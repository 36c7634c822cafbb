package rules

import (
	"net/netip"
	"strconv"
	"strings"

	"vifproxy/rules/flaws"
	"vifproxy/rules/hostname"
)

// parseEntry reads an entry of a list of names: HOST, *.HOST, an IPv4 address, or an IPv6 address in brackets, each with or
// without a colon and a port.
func parseEntry(entry string) (h Host, flaw *flaws.Flaw) {
	name, port, hasPort := entry, "", false
	if inner, ok := strings.CutPrefix(entry, "["); ok {
		literal, rest, closed := strings.Cut(inner, "]")
		port, hasPort = strings.CutPrefix(rest, ":")
		addr, err := netip.ParseAddr(literal)
		if !closed || err != nil || !addr.Is6() || addr.Is4In6() || addr.Zone() != "" || !hasPort && rest != "" {
			return h, &flaws.Flaw{Text: flaws.Excerpt(entry) + " is not a host name, nor an IPv6 address in brackets",
				Remedy: "write it like [2001:db8::1] or [2001:db8::1]:443"}
		}
		h.Name = addr.String() // as browsers write it
	} else {
		if strings.Count(entry, ":") == 1 && !strings.ContainsAny(entry, "/@") {
			name, port, hasPort = strings.Cut(entry, ":")
		}
		if name, flaw = hostname.Canonical(name); flaw != nil {
			return h, flaw
		}
		h.Name, h.Below = strings.CutPrefix(name, "*.")
	}
	if h.Port = parsePort(port); hasPort && h.Port == 0 {
		return Host{}, &flaws.Flaw{Text: flaws.Excerpt(entry) + " has no port from 1 to 65535 behind the colon",
			Remedy: "write one number, or the host alone; more ports are more lines"}
	}
	return h, nil
}

// IsPort reports whether text is a number from 1 to 65535 as people write it.
func IsPort(text string) bool { return parsePort(text) != 0 }

// parsePort reads a number from 1 to 65535 as people write it; 0 if it is none.
func parsePort(text string) uint16 {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || text != strconv.FormatUint(n, 10) {
		return 0
	}
	return uint16(n)
}
