package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vifproxy/rules/flaws"
)

// An Egress is a network that proxies may connect to with TCP although it is private, or although the port is not open
// everywhere.
type Egress struct {
	To   netip.Prefix // masked
	Port uint16       // 0: the ports that are open everywhere
	Line int          // in its rule file; 0 if it is from none
	Text string       // of that line, as it stands
	Part string       // the path of the included list that has the line; "" if the rule file itself has it
}

func (e Egress) String() string {
	switch {
	case e.Port == 0:
		return e.To.String()
	case e.To.Addr().Is4():
		return fmt.Sprintf("%s:%d", e.To, e.Port)
	}
	return fmt.Sprintf("[%s]:%d", e.To, e.Port)
}

// Single reports whether e is one address. A single address is opened wherever it leads. A network never leads to addresses of
// the firewall VM, loopback, link-local addresses or AppVMs.
func (e Egress) Single() bool { return e.To.IsSingleIP() }

// Covers reports whether a proxy that may connect to e may do all that other allows.
func (e Egress) Covers(other Egress) bool {
	return e.Port == other.Port && e.To.Bits() <= other.To.Bits() && e.To.Overlaps(other.To) &&
		(e.Single() || !other.Single())
}

// The widest networks that a line may open: those of RFC 1918 and RFC 4193. Anything wider would be no fence.
const (
	widest4 = 8
	widest6 = 7
)

// ParseEgress reads a list such as "192.168.1.0/24,10.9.0.5/32:3128,[fd00:1::/64]:443".
func ParseEgress(list string) ([]Egress, error) {
	var all []Egress
	for text := range strings.SplitSeq(list, ",") {
		e, flaw := parseEgress(strings.TrimSpace(text))
		if flaw != nil {
			return nil, flaw
		}
		if !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	return all, nil
}

// parseEgress reads CIDR[:PORT]. An address alone is a network of one; IPv6 with a port stands in brackets.
func parseEgress(text string) (Egress, *flaws.Flaw) {
	fail := func(what, remedy string) (Egress, *flaws.Flaw) {
		return Egress{}, &flaws.Flaw{Text: flaws.Excerpt(text) + " " + what, Remedy: remedy}
	}
	const form = "write it like 192.168.1.0/24, 192.168.1.5/32:8443 or [fd00:1::/64]:443"
	network, port, hasPort := text, "", false
	if inner, ok := strings.CutPrefix(text, "["); ok {
		network, port, ok = strings.Cut(inner, "]")
		if port, hasPort = strings.CutPrefix(port, ":"); !ok || !hasPort {
			return fail("is no network with a port", form)
		}
	} else if strings.Count(text, ":") == 1 {
		network, port, hasPort = strings.Cut(text, ":")
	}
	var e Egress
	var err error
	if strings.Contains(network, "/") {
		e.To, err = netip.ParsePrefix(network)
	} else {
		var addr netip.Addr
		addr, err = netip.ParseAddr(network)
		e.To = netip.PrefixFrom(addr, addr.BitLen())
	}
	addr := e.To.Addr()
	switch {
	case err != nil || strings.Contains(network, "%"):
		return fail("is no network", form)
	case addr.Is4In6():
		return fail("is IPv4 written as IPv6", form)
	case hasPort:
		if e.Port = parsePort(port); e.Port == 0 {
			return fail("has no port from 1 to 65535 behind the colon", form)
		}
	}
	widest := widest6
	if addr.Is4() {
		widest = widest4
	}
	if e.To.Bits() < widest {
		return fail("is too wide: it opens more than any private network has",
			fmt.Sprintf("name what is needed; the length is at least %d", widest))
	}
	if masked := e.To.Masked(); masked != e.To {
		return fail("has bits behind the length of the network",
			fmt.Sprintf("write %s for the network, %s/%d for the one address", masked, addr, addr.BitLen()))
	}
	return e, nil
}
