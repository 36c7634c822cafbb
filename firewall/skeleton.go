package firewall

import (
	_ "embed"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
)

var (
	//go:embed vifproxy.nft
	nftText string
	//go:embed qubes.nft
	nftQubesText string
)

// skeleton is the text that replaces everything of ours by the rules with what want says. It is valid only as long as
// before holds: the handles of the jumps are in it.
func skeleton(cfg Config, before snapshot, want State) string {
	f := want.Fence
	var ports, bindings []string
	for _, b := range want.Bindings {
		ports = append(ports, fmt.Sprintf("%q . %s : %s . %d", b.Vif, b.Addr, b.To.Addr(), b.To.Port()))
		bindings = append(bindings, fmt.Sprintf("%q . %s . %d", b.Vif, b.Addr, b.To.Port()))
	}
	holes := f.withPorts(f.Holes)
	values := map[string]string{
		"proxy_port": fmt.Sprint(cfg.ProxyPort),
		"first_port": fmt.Sprint(cfg.FirstPort),
		"last_port":  fmt.Sprint(cfg.LastPort),
		"first_uid":  fmt.Sprint(cfg.FirstUID),
		"last_uid":   fmt.Sprint(cfg.LastUID),
		"forbidden4": join(ofFamily(true, forbidden, netip.Prefix.Addr), ", "),
		"forbidden6": join(ofFamily(false, forbidden, netip.Prefix.Addr), ", "),

		"ports":      elements(ports),
		"bindings":   elements(bindings),
		"resolvers4": elements(ofFamily(true, f.Resolvers, netip.Addr.Unmap)),
		"resolvers6": elements(ofFamily(false, f.Resolvers, netip.Addr.Unmap)),
		"open":       elements(f.Ports),
		"holes4":     elements(holeTexts(true, "", true, holes)),
		"holes6":     elements(holeTexts(false, "", true, holes)),
		"owned4":     elements(f.owned(true, true)),
		"owned6":     elements(f.owned(false, true)),
		"wide4":      elements(f.owned(true, false)),
		"wide6":      elements(f.owned(false, false)),

		"leftovers": leftovers(before),
	}
	text := nftText
	if before.userChain {
		text += nftQubesText
	}
	return os.Expand(text, func(name string) string {
		if value, ok := values[name]; ok {
			return value
		}
		return "$" + name // which nft will say is unknown
	})
}

// elements are those of a set; to say that there are none is an error to nft.
func elements[T any](all []T) string {
	if len(all) == 0 {
		return ""
	}
	return "elements = {\n\t\t\t" + join(all, ",\n\t\t\t") + "\n\t\t}"
}

// ofFamily are those that belong to IPv4, or to IPv6.
func ofFamily[T any](four bool, all []T, addr func(T) netip.Addr) []T {
	return slices.DeleteFunc(slices.Clone(all), func(x T) bool { return addr(x).Is4() != four })
}

// owned are the holes of single proxies.
func (f Fence) owned(four, withPort bool) (all []string) {
	for _, p := range f.Proxies {
		all = append(all, holeTexts(four, fmt.Sprint(p.UID, " . "), withPort, p.Holes)...)
	}
	return all
}

// holeTexts are those holes that have a port of their own, or those that have none.
func holeTexts(four bool, owner string, withPort bool, holes []Hole) (texts []string) {
	for _, h := range disjoint(holes) {
		if h.To.Addr().Is4() != four || (h.Port != 0) != withPort {
			continue
		}
		text := owner + h.To.String()
		if withPort {
			text += fmt.Sprint(" . ", h.Port)
		}
		texts = append(texts, text)
	}
	return texts
}

// leftovers are the lines that take what an earlier text has put into Qubes' table out of it.
func leftovers(before snapshot) string {
	var lines []string
	for _, handle := range before.jumps {
		lines = append(lines, fmt.Sprint("delete rule ip qubes custom-input handle ", handle))
	}
	if before.acceptChain {
		lines = append(lines, "flush chain ip qubes vifproxy-input", "delete chain ip qubes vifproxy-input")
	}
	if before.acceptSet {
		lines = append(lines, "delete set ip qubes vifproxy")
	}
	return strings.Join(lines, "\n")
}
