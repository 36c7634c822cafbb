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
	"holes": func(four bool, f Fence) string { return join(holeTexts(f, f.Holes, four), ", ") },
	"owned": func(four bool, f Fence) string {
		var all []string
		for _, p := range f.Proxies {
			for _, hole := range holeTexts(f, p.Holes, four) {
				all = append(all, fmt.Sprint(p.UID, " . ", hole))
			}
		}
		return join(all, ",\n\t\t\t")
	},
}).Parse(nftText))

func holeTexts(f Fence, holes []Hole, four bool) (texts []string) {
	for _, h := range f.disjoint(holes) {
		if h.To.Addr().Is4() == four {
			texts = append(texts, fmt.Sprint(h.To, " . ", h.Port))
		}
	}
	return texts
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
