package netwatch

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseVif(t *testing.T) {
	good := map[string][2]int{
		"vif0.0":           {0, 0}, // the network VM serves dom0
		"vif7.0":           {7, 0},
		"vif7.12":          {7, 12},
		"vif32752.0":       {32752, 0},
		"vif1.999999999":   {1, 999999999},
		"vif32752.9999999": {32752, 9999999},
	}
	for name, want := range good {
		if domid, devid, ok := ParseVif(name); !ok || [2]int{domid, devid} != want {
			t.Errorf("ParseVif(%q) = %d, %d, %v, want %v", name, domid, devid, ok, want)
		}
	}
	for _, name := range []string{
		"", "vif", "vif.", "vif1", "vif1.", "vif.1", "vif01.0", "vif1.00", "vif00.0", "vif+1.0", "vif-1.0",
		"vif1.-0", "vif1.+0", "vif 1.0", "vif1.0 ", "vif1.0\n", "vif1.0-emu", "vif1.0.2", "vif1..0", "vif1.0x",
		"vif1,0", "vif0x1.0", "vif1_0.0", "vif32753.0", "vif99999.0", "vif99999999999999999999.0",
		"vif1.99999999999999999999", "VIF1.0", "Vif1.0", "xvif1.0", "vifvif1.0", "vif１.0", "vif1.0\x00", "tap1.0",
		"eth0", "lo",
	} {
		if domid, devid, ok := ParseVif(name); ok || domid != 0 || devid != 0 {
			t.Errorf("ParseVif(%q) = %d, %d, %v, want 0, 0, false", name, domid, devid, ok)
		}
	}
}

// A table is written as the kernel's three tables in words, one line each:
//
//	link 4 vif2.0 up
//	addr 4 10.138.1.1 [secondary]
//	route 10.137.0.15/32 oif 4 [table N] [kind N] [via]
func tables(t *testing.T, text string) (links []link, addrs []address, routes []route) {
	t.Helper()
	for line := range strings.Lines(text) {
		word := strings.Fields(line)
		var err error
		switch {
		case len(word) == 0:
		case word[0] == "link":
			l := link{name: word[2], up: slices.Contains(word, "up")}
			_, err = fmt.Sscan(word[1], &l.index)
			links = append(links, l)
		case word[0] == "addr":
			a := address{local: netip.MustParseAddr(word[2]), secondary: slices.Contains(word, "secondary")}
			_, err = fmt.Sscan(word[1], &a.index)
			addrs = append(addrs, a)
		case word[0] == "route":
			r := route{table: unix.RT_TABLE_MAIN, kind: unix.RTN_UNICAST, via: slices.Contains(word, "via")}
			if word[1] != "default" {
				p := netip.MustParsePrefix(word[1])
				r.dst, r.bits = p.Addr(), uint8(p.Bits())
			}
			for i, w := range word {
				switch w {
				case "oif":
					_, err = fmt.Sscan(word[i+1], &r.oif)
				case "table":
					_, err = fmt.Sscan(word[i+1], &r.table)
				case "kind":
					_, err = fmt.Sscan(word[i+1], &r.kind)
				}
			}
			routes = append(routes, r)
		default:
			t.Fatalf("unknown line %q", line)
		}
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
	}
	return links, addrs, routes
}

func (s Snapshot) String() string {
	var b strings.Builder
	for _, vm := range s {
		fmt.Fprintf(&b, "%s via %s at %s\n", vm.Addr, strings.Join(vm.Vifs, ","), vm.Gateway)
	}
	return b.String()
}

func TestConnected(t *testing.T) {
	tests := []struct{ name, kernel, want string }{
		{"nothing", ``, ``},
		{"one AppVM", `
			link 4 vif2.0 up
			addr 4 10.138.1.1
			route 10.137.0.15/32 oif 4`,
			"10.137.0.15 via vif2.0 at 10.138.1.1\n"},
		{"many AppVMs, same gateway everywhere, sorted by address", `
			link 4 vif2.0 up
			link 5 vif3.0 up
			link 6 vif10.0 up
			addr 4 10.138.1.1
			addr 5 10.138.1.1
			addr 6 10.138.1.1
			route 10.137.0.100/32 oif 4
			route 10.137.0.20/32 oif 5
			route 10.137.0.3/32 oif 6`,
			"10.137.0.3 via vif10.0 at 10.138.1.1\n" +
				"10.137.0.20 via vif3.0 at 10.138.1.1\n" +
				"10.137.0.100 via vif2.0 at 10.138.1.1\n"},
		{"no address yet", `
			link 4 vif2.0 up
			route 10.137.0.15/32 oif 4`, ``},
		{"no route yet", `
			link 4 vif2.0 up
			addr 4 10.138.1.1`, ``},
		{"not up", `
			link 4 vif2.0
			addr 4 10.138.1.1
			route 10.137.0.15/32 oif 4`, ``},
		{"the link has gone, its route and address have not", `
			addr 4 10.138.1.1
			route 10.137.0.15/32 oif 4`, ``},
		{"address of another link", `
			link 4 vif2.0 up
			link 5 eth0 up
			addr 5 10.138.1.1
			route 10.137.0.15/32 oif 4`, ``},
		{"two addresses: the first", `
			link 4 vif2.0 up
			addr 4 10.138.1.1
			addr 4 10.137.0.1
			route 10.137.0.15/32 oif 4`,
			"10.137.0.15 via vif2.0 at 10.138.1.1\n"},
		{"secondary addresses do not count", `
			link 4 vif2.0 up
			addr 4 10.138.1.2 secondary
			addr 4 10.138.1.1
			route 10.137.0.15/32 oif 4`,
			"10.137.0.15 via vif2.0 at 10.138.1.1\n"},
		{"only a secondary address", `
			link 4 vif2.0 up
			addr 4 10.138.1.2 secondary
			route 10.137.0.15/32 oif 4`, ``},
		{"local and other tables", `
			link 4 vif2.0 up
			addr 4 10.138.1.1
			route 10.138.1.1/32 oif 4 table 255 kind 2
			route 10.137.0.15/32 oif 4 table 100
			route 10.137.0.16/32 oif 4 table 252`, ``},
		{"host routes that are not unicast", `
			link 4 vif2.0 up
			addr 4 10.138.1.1
			route 10.137.0.15/32 oif 0 kind 6
			route 10.137.0.16/32 oif 4 kind 6
			route 10.137.0.17/32 oif 4 kind 7
			route 10.137.0.18/32 oif 4 kind 3`, ``},
		{"routes to networks", `
			link 4 vif2.0 up
			addr 4 10.138.1.1
			route default oif 4
			route 0.0.0.0/0 oif 4
			route 10.137.0.0/24 oif 4
			route 10.137.0.14/31 oif 4`, ``},
		{"a machine behind the AppVM", `
			link 4 vif2.0 up
			addr 4 10.138.1.1
			route 10.137.0.15/32 oif 4
			route 192.168.7.7/32 oif 4 via`,
			"10.137.0.15 via vif2.0 at 10.138.1.1\n"},
		{"routes without link and to links that are not vifs", `
			link 1 lo up
			link 2 eth0 up
			link 4 vif2.0 up
			addr 2 192.0.2.1
			addr 4 10.138.1.1
			route 192.0.2.2/32 oif 2
			route 192.0.2.3/32 oif 0
			route 192.0.2.4/32 oif 99`, ``},
		{"HVM: its stub domain's vif has the same address", `
			link 4 vif2.0 up
			link 5 vif3.0 up
			addr 4 10.138.1.1
			addr 5 10.138.1.1
			route 10.137.0.15/32 oif 5
			route 10.137.0.15/32 oif 4`,
			"10.137.0.15 via vif2.0,vif3.0 at 10.138.1.1\n"},
		{"HVM whose own vif has gone", `
			link 5 vif3.0 up
			addr 5 10.138.1.1
			route 10.137.0.15/32 oif 5
			route 10.137.0.15/32 oif 4`,
			"10.137.0.15 via vif3.0 at 10.138.1.1\n"},
		{"HVM, one of its vifs not configured yet", `
			link 4 vif2.0 up
			link 5 vif3.0 up
			addr 4 10.138.1.1
			route 10.137.0.15/32 oif 4
			route 10.137.0.15/32 oif 5`,
			"10.137.0.15 via vif2.0 at 10.138.1.1\n"},
		{"several vifs with different gateways: the newest's; sorted by numbers", `
			link 30 vif9.10 up
			link 40 vif9.9 up
			link 20 vif10.0 up
			addr 30 10.138.1.30
			addr 40 10.138.1.40
			addr 20 10.138.1.20
			route 10.137.0.15/32 oif 20
			route 10.137.0.15/32 oif 30
			route 10.137.0.15/32 oif 40`,
			"10.137.0.15 via vif9.9,vif9.10,vif10.0 at 10.138.1.40\n"},
		{"the same route with two metrics", `
			link 4 vif2.0 up
			addr 4 10.138.1.1
			route 10.137.0.15/32 oif 4
			route 10.137.0.15/32 oif 4`,
			"10.137.0.15 via vif2.0 at 10.138.1.1\n"},
		{"two addresses routed to one vif", `
			link 4 vif2.0 up
			addr 4 10.138.1.1
			route 10.137.0.16/32 oif 4
			route 10.137.0.15/32 oif 4`,
			"10.137.0.15 via vif2.0 at 10.138.1.1\n10.137.0.16 via vif2.0 at 10.138.1.1\n"},
		{"names that look like a vif", `
			link 3 vif01.0 up
			link 4 vif1.0-emu up
			link 5 vif99999.0 up
			link 6 vif2.0.1 up
			link 7 vif0 up
			addr 3 10.138.1.1
			addr 4 10.138.1.1
			addr 5 10.138.1.1
			addr 6 10.138.1.1
			addr 7 10.138.1.1
			route 10.137.0.3/32 oif 3
			route 10.137.0.4/32 oif 4
			route 10.137.0.5/32 oif 5
			route 10.137.0.6/32 oif 6
			route 10.137.0.7/32 oif 7`, ``},
		{"renamed away", `
			link 4 old2.0 up
			addr 4 10.138.1.1
			route 10.137.0.15/32 oif 4`, ``},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := connected(tables(t, test.kernel)).String(); got != test.want {
				t.Errorf("got:\n%swant:\n%s", got, test.want)
			}
		})
	}
}

func TestEqual(t *testing.T) {
	vm := func(addr, gateway string, vifs ...string) AppVM {
		return AppVM{Addr: netip.MustParseAddr(addr), Gateway: netip.MustParseAddr(gateway), Vifs: vifs}
	}
	again := vm("10.0.0.1", "10.1.0.1", "vif1.0")
	again.Links = []int32{8}
	different := []Snapshot{
		nil,
		{again},
		{vm("10.0.0.1", "10.1.0.1", "vif1.0")},
		{vm("10.0.0.2", "10.1.0.1", "vif1.0")},
		{vm("10.0.0.1", "10.1.0.2", "vif1.0")},
		{vm("10.0.0.1", "10.1.0.1", "vif2.0")},
		{vm("10.0.0.1", "10.1.0.1", "vif1.0", "vif2.0")},
		{vm("10.0.0.1", "10.1.0.1", "vif1.0"), vm("10.0.0.2", "10.1.0.1", "vif2.0")},
	}
	for i, a := range different {
		for j, b := range different {
			if a.Equal(b) != (i == j) {
				t.Errorf("Equal is wrong about %v and %v", a, b)
			}
		}
	}
	if !(Snapshot{}).Equal(nil) {
		t.Error("an empty Snapshot and nil differ")
	}
}
