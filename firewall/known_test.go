package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tapped notes what is asked of the kernel: one line for each request, which of a transaction names all its parts.
type tapped struct {
	io.ReadWriteCloser
	requests  []string
	meanwhile func() // before each transaction, if not nil
}

// tap puts itself between a backend and the kernel.
func tap(b Backend) *tapped {
	conn := b.(*nftBackend).conn
	t := &tapped{ReadWriteCloser: conn.socket}
	conn.socket = t
	return t
}

func (t *tapped) Write(request []byte) (int, error) {
	names := map[uint16]string{
		unix.NFNL_MSG_BATCH_BEGIN: "begin", unix.NFNL_MSG_BATCH_END: "end",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN:     "generation",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM: "add",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSETELEM: "delete",
	}
	var parts []string
	for m := request; len(m) > 0; m = m[binary.NativeEndian.Uint32(m):] {
		kind := binary.NativeEndian.Uint16(m[4:])
		if names[kind] == "" {
			names[kind] = "other"
		}
		parts = append(parts, names[kind])
	}
	t.requests = append(t.requests, strings.Join(parts, " "))
	if parts[0] == "begin" && t.meanwhile != nil {
		t.meanwhile()
	}
	return t.ReadWriteCloser.Write(request)
}

// asked are the requests since the last call.
func (t *tapped) asked() string {
	all := strings.Join(t.requests, ", ")
	t.requests = nil
	return all
}

// What Sync asks of the kernel depends on what there is to do, and not on how many AppVMs there are.
func TestRequests(t *testing.T) {
	for _, n := range []int{1, 250} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			enterNamespace(t)
			m := machines[0]
			m.loadForeign(t)
			b := m.open(t)
			own := []Hole{hole("192.168.1.0/24", 8080), hole("fd12::/64", 443), hole("10.8.0.0/16", 0)}
			want := housing(n, own...)
			syncState(t, b, want)
			kernel := tap(b)
			for _, step := range []struct {
				what, requests string
				writes         int
				change         func()
			}{
				{"nothing", "generation", 0, func() {}},
				{"one comes", "begin add add add add end", 4, func() {
					next := housing(n + 1)
					want.Bindings = next.Bindings
					want.Fence.Proxies = append(want.Fence.Proxies, next.Fence.Proxies[n])
				}},
				{"one moves", "begin delete add add delete add add end, begin delete delete end", 8, func() {
					want.Bindings[0].To = binding("x", "10.0.0.1", "10.138.0.1:64999").To
				}},
				{"nothing again", "generation", 0, func() {}},
				{"one goes", "begin delete delete delete delete end", 4, func() { want = want.without() }},
				{"one comes with holes", "begin add add add add add add add end", 7, func() {
					want.Bindings = append(want.Bindings, binding("vif999.0", "10.137.9.9", "10.138.0.1:64998"))
					want.Fence.Proxies = append(want.Fence.Proxies, Proxy{UID: personalUID, Holes: own})
				}},
				{"a hole becomes narrower", "begin delete add end", 2, func() {
					want.Fence.Proxies[n].Holes = []Hole{hole("192.168.1.128/25", 8080), own[1], own[2]}
				}},
				{"a hole for all", "begin add end", 1, func() {
					want.Fence.Holes = []Hole{hole("10.9.9.9/32", 3128)}
				}},
				{"other resolvers", "begin delete add end", 2, func() {
					want.Fence.Resolvers = []netip.Addr{want.Fence.Resolvers[0], netip.MustParseAddr("9.9.9.9")}
				}},
				{"another port", "begin delete add end", 2, func() { want.Fence.Ports = []uint16{8443} }},
				{"one with holes goes", "begin delete delete delete delete delete delete delete end", 7, func() {
					want = want.without()
				}},
			} {
				step.change()
				if writes := syncState(t, b, want); writes != step.writes {
					t.Errorf("%s: %d writes instead of %d", step.what, writes, step.writes)
				}
				if got := kernel.asked(); got != step.requests {
					t.Errorf("%s: asked for %s; want %s", step.what, got, step.requests)
				}
			}
			got := sorted(m.rules(t))
			syncState(t, m.open(t), want)
			if fresh := sorted(m.rules(t)); got != fresh {
				t.Errorf("not what a fresh start makes of it:\n%s", diff(fresh, got))
			}
		})
	}
}

// others are transactions of another program, on our things and on its own.
var others = []string{
	"nft add table ip other",
	"nft flush chain ip vifproxy input",
	"nft delete table ip vifproxy",
	"nft flush set ip vifproxy bindings",
	"nft add element ip vifproxy ports '{ vif9.0 . 10.137.0.99 : 10.138.0.1 . 61000 }'",
	"nft add element ip vifproxy bindings '{ vif2.0 . 10.137.0.12 . 61001 }'", // before us
	"nft add element ip qubes vifproxy '{ vif9.0 . 10.137.0.99 . 61000 }'",
	"nft insert rule inet vifproxy egress accept",
	"nft add element inet vifproxy owned4 '{ 1888026636 . 192.168.1.0/24 . 22 }'",
	"nft flush set inet vifproxy ports",
	"nft delete table inet vifproxy",
}

// Whatever somebody does between two Syncs, or between the last that Sync reads and what it writes then, is found and
// set right, also when there is something to write besides.
func TestOutrun(t *testing.T) {
	for _, racing := range []bool{false, true} {
		for _, act := range others {
			t.Run(fmt.Sprintf("racing=%t/%s", racing, strings.ReplaceAll(act, "/", "")), func(t *testing.T) {
				enterNamespace(t)
				m := machines[0]
				m.loadForeign(t)
				b := m.open(t)
				want := State{Bindings: []Binding{personal, social}, Fence: wide()}
				syncState(t, b, want)
				good := sorted(m.rules(t))
				syncState(t, b, State{Bindings: []Binding{personal}, Fence: wide()})

				kernel, times := tap(b), 0
				act := func() {
					if times++; times == 1 {
						m.shell(t, act)
					}
				}
				if racing {
					kernel.meanwhile = act
				} else {
					act()
				}
				if n := syncState(t, b, want); n == 0 {
					t.Error("no writes")
				}
				if times == 0 {
					t.Fatal("there was no race")
				}
				if asked := kernel.asked(); !strings.HasPrefix(asked, "begin add add add add end, generation, other") {
					t.Errorf("asked for %s; want a write, its refusal, and a look at everything", asked[:min(len(asked), 200)])
				}
				kernel.meanwhile = nil
				m.shell(t, "nft delete table ip other 2>/dev/null || true")
				if n := syncState(t, b, want); n != 0 {
					t.Errorf("%d writes after it was set right", n)
				}
				if got := sorted(m.rules(t)); got != good {
					t.Errorf("not set right:\n%s", diff(good, got))
				}
			})
		}
	}
}

// Where somebody is faster each time, Sync ends all the same, with an error, and has written nothing.
func TestAlwaysOutrun(t *testing.T) {
	enterNamespace(t)
	m := machines[0]
	m.loadForeign(t)
	b := m.open(t)
	bind(t, b, personal)
	good := m.rules(t)
	other := newForeigner(t, m)
	bind(t, b, personal)
	tap(b).meanwhile = func() { other.write(t) }
	if _, err := b.Sync(t.Context(), State{Bindings: []Binding{social}}, func() {}); !errors.Is(err, errBusy) {
		t.Errorf("error %v", err)
	}
	if got := strings.Split(m.rules(t), "table ip other")[0]; got != good {
		t.Errorf("rules changed:\n%s", diff(good, got))
	}
	if n := bind(t, b, social); n != 8 {
		t.Errorf("%d writes instead of 8", n)
	}
}

// The caller's bindings are the caller's.
func TestBindingsChangedByCaller(t *testing.T) {
	enterNamespace(t)
	b := machines[1].open(t)
	mine := []Binding{personal, social}
	bind(t, b, mine...)
	mine[0] = stubdom
	if n := bind(t, b, mine...); n != 5 {
		t.Errorf("%d writes instead of 5", n)
	}
}

func TestGenerationWraps(t *testing.T) {
	if got := following(math.MaxUint32); got != 1 { // nf_tables_commit: while (++base_seq == 0)
		t.Errorf("%d follows the last", got)
	}
}
