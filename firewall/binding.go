package firewall

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Binding lets one AppVM, on one vif, reach one proxy.
type Binding struct {
	Vif    string         // interface the AppVM's packets come in on
	Link   int32          // its index
	Addr   netip.Addr     // IPv4 address of the AppVM
	To     netip.AddrPort // IPv4 address and port where its proxy listens
	Socket uint64         // the number of the socket that listens there, see sockdiag.Socket
	Shown  netip.Addr     // the gateway that the AppVM is shown in the place of its own; invalid if it is shown that
}

// Local reports whether the binding is for this machine itself: the daemon asks a proxy of its own over loopback.
func (b Binding) Local() bool { return b.Vif == "lo" }

func (b Binding) String() string {
	return fmt.Sprintf("%s %s to %s", b.Vif, b.Addr, b.To)
}

// Config is what the rules need to know in addition to a State.
type Config struct {
	ProxyPort           uint16 // the port AppVMs use
	FirstPort, LastPort uint16 // range in which proxies listen, both ends included; guarded
	FirstUID, LastUID   uint32 // uids of proxies, both ends included; fenced
	Switchboard         bool   // hands connections to proxies; otherwise nat translates them

	NamesUID uint32 // of the resolver, one of the fenced range
}

// isName reports whether vif is a name of an interface. It is stricter than the kernel: nft and iptables read other
// characters as syntax, as in `vif*` (nft) and `vif+` (iptables), which mean every interface that begins so.
func isName(vif string) bool {
	for i, c := range []byte(vif) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return 0 < len(vif) && len(vif) < 16 // IFNAMSIZ, with the final zero
}

// normalizeBindings returns the bindings in a fixed order, so that equal bindings compare equal. It returns an error if they
// contain something that must not get into a rule.
func (c Config) normalizeBindings(all []Binding) ([]Binding, error) {
	if !slices.IsSortedFunc(all, compareBindings) {
		all = slices.SortedFunc(slices.Values(all), compareBindings)
	}
	for i := range all {
		if err := c.Check(all[i]); err != nil {
			return nil, err
		}
		if i > 0 && all[i-1].Vif == all[i].Vif && all[i-1].Addr == all[i].Addr {
			return nil, fmt.Errorf("two bindings of %s on %s", all[i].Addr, all[i].Vif)
		}
	}
	return all, nil
}

// Check returns an error if a binding contains something that must not get into a rule.
func (c Config) Check(b Binding) error {
	switch port := b.To.Port(); {
	case !isName(b.Vif):
		return fmt.Errorf("binding of %s: %q is no name of an interface", b.Addr, b.Vif)
	case !b.Addr.Is4() || b.Addr.IsUnspecified():
		return fmt.Errorf("binding on %s: %s is no IPv4 address of an AppVM", b.Vif, b.Addr)
	case !b.To.Addr().Is4() || b.To.Addr().IsUnspecified():
		return fmt.Errorf("binding of %s on %s: %s is no IPv4 address of a proxy", b.Addr, b.Vif, b.To.Addr())
	case b.Shown.IsValid() && (!b.Shown.Is4() || b.Shown.IsUnspecified()):
		return fmt.Errorf("binding of %s on %s: %s is no IPv4 address of a gateway", b.Addr, b.Vif, b.Shown)
	case port < c.FirstPort || port > c.LastPort:
		return fmt.Errorf("binding of %s on %s: port %d is outside the guarded range %d-%d", b.Addr, b.Vif, port, c.FirstPort, c.LastPort)
	}
	return nil
}

// compareBindings puts bindings of the same address and vif next to each other.
func compareBindings(a, b Binding) int {
	if order := a.Addr.Compare(b.Addr); order != 0 { // usually
		return order
	}
	return cmp.Or(strings.Compare(a.Vif, b.Vif), a.To.Compare(b.To), a.Shown.Compare(b.Shown))
}
