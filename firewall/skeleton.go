package firewall

import (
	_ "embed"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/template"
)

//go:embed vifproxy.nft
var nftText string

var nftTemplate = template.Must(template.New("vifproxy.nft").Funcs(template.FuncMap{
	"nets": func(four bool, all []netip.Prefix) string {
		return join(slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return p.Addr().Is4() != four }), ", ")
	},
	"addrs": func(four bool, all []netip.Addr) string {
		return join(slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return a.Is4() != four }), ", ")
	},
	"ports": func(ports []uint16) string { return join(ports, ", ") },
	"holes": func(four bool, f Fence) string {
		return elementTexts(four, "", true, f.withPorts(f.Holes))
	},
	"owned": func(four, withPort bool, f Fence) string {
		var all []string
		for _, p := range f.Proxies {
			if some := elementTexts(four, fmt.Sprint(p.UID, " . "), withPort, p.Holes); some != "" {
				all = append(all, some)
			}
		}
		return join(all, ",\n\t\t\t")
	},
}).Parse(nftText))

// elementTexts are those holes that have a port of their own, or those that have none.
func elementTexts(four bool, owner string, withPort bool, holes []Hole) string {
	var texts []string
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
	return join(texts, ", ")
}

// skeleton is the text that replaces everything of ours by the rules with what want says. It is valid only as long as
// before holds: the handles of the jumps are in it.
func skeleton(cfg Config, before snapshot, want State) (string, error) {
	var text strings.Builder
	err := nftTemplate.Execute(&text, struct {
		Config
		snapshot
		State
		Forbidden []netip.Prefix
	}{cfg, before, want, forbidden})
	return text.String(), err
}
