package forward

import (
	"errors"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	. "vifproxy/firewall/firewalltest"
)

// Sets of the program ipset may have interfaces, as the second of two parts.
func TestForwardOfIPSets(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		for _, c := range []struct{ rules, barred string }{
			{"-A FORWARD -m set ! --match-set tunnels dst,dst -j DROP", "eth0 eth1 wg0 others"},
			{"-A FORWARD -m set --match-set tunnels dst,dst -j ACCEPT\n-A FORWARD -j DROP", "eth0 eth1 wg0 others"},
			{"-A FORWARD -m set --match-set tunnels src,dst -o eth0 -j DROP", "eth0"},
			{"-A FORWARD -m set --match-set tunnels src,src -j DROP", ""},
			{"-A FORWARD -m set --match-set blocked dst -j DROP", ""},
			{"-A FORWARD -o eth0 -m set ! --match-set blocked dst -j ACCEPT\n-A FORWARD -o eth0 -j DROP", "eth0"},
			{"-A FORWARD -o eth0 -j SET --add-set blocked dst\n-A FORWARD -m set --match-set blocked dst -j DROP", "eth0 eth1 wg0 others"},
		} {
			t.Run(variant, func(t *testing.T) {
				EnterNamespace(t)
				makeLinks(t)
				for name, kind := range map[string]string{"tunnels": "hash:net,iface", "blocked": "hash:ip"} {
					err := netlink.IpsetCreate(name, kind, netlink.IpsetCreateOptions{})
					if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
						t.Skipf("this kernel has no sets of the kind %s: %v", kind, err)
					}
					Must(t, err)
				}
				for line := range strings.Lines(c.rules) {
					Run(t, "", "sh", "-c", "iptables-"+variant+" "+line)
				}
				var r Reader
				f, err := r.Read(t.Context())
				if got := printedForward(f); err != nil || !sameWords(got, c.barred) || f.Unread != "" {
					t.Errorf("%s\nbars %q, want %q (%v, %s)", c.rules, got, c.barred, err, f.Unread)
				}
			})
		}
	}
}
