package lint

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vifproxy/rules"
)

// innermost are the networks of the firewall VM itself and of its links, whatever addresses its interfaces have.
var innermost = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fe80::/10"),
}

// openings returns findings about the lines that open the fence. Path is not set.
func openings(f rules.File) (all []Finding) {
	for _, e := range f.Egress {
		finding := Finding{Line: e.Line, Col: 1}
		within := slices.ContainsFunc(innermost, func(net netip.Prefix) bool {
			return net.Bits() <= e.To.Bits() && net.Overlaps(e.To)
		})
		switch {
		case within && e.Single():
			finding.Problem = fmt.Sprintf("%s is the firewall VM itself, or on its own link: this AppVM reaches what listens there",
				e.To.Addr())
			finding.Remedy = "remove the line, unless that service is meant for this AppVM"
		case within:
			finding.Problem = fmt.Sprintf("%s leads nowhere: a network opens no address of the firewall VM or of its links", e.To)
			finding.Remedy = "name the single address"
		default:
			continue
		}
		all = append(all, finding)
	}
	return all
}

// hardlyMeant are ports that hardly anybody means to open for a web proxy.
var hardlyMeant = map[uint16]string{
	25: "mail servers take mail from each other there: this AppVM can send mail as this network",
	53: "name servers answer there: what a look-up carries away passes no list",
}

// ports returns findings about the lines that open ports. Path is not set.
func ports(f rules.File) (all []Finding) {
	first := map[uint16]int{} // by directive
	for _, p := range f.Ports {
		finding := Finding{Line: p.Line, Col: 1}
		before, again := first[p.Number]
		directive := strings.HasPrefix(p.Text, "#:")
		if directive && !again {
			first[p.Number] = p.Line
		}
		switch why := hardlyMeant[p.Number]; {
		case directive && again:
			finding.Problem, finding.Remedy = fmt.Sprintf("port %d is opened by line %d already", p.Number, before), "remove it"
		case why != "":
			finding.Problem = fmt.Sprintf("port %d is open for all hosts of this list: %s", p.Number, why)
			finding.Remedy = "remove the port, unless that is meant"
		default:
			continue
		}
		all = append(all, finding)
	}
	return all
}
