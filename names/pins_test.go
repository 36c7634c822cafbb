package names

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/names/wire"
)

// An answer goes out when the kernel has its addresses, and not if it cannot have them.
func TestPinnedBeforeItIsAnswered(t *testing.T) {
	t.Parallel()
	server := serve(t, public)
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	var acknowledged atomic.Bool
	m.acked = func(p *wire.Pin) {
		if p.UID != 1 || p.Seconds != 330 || !slices.Equal(p.Addrs, []netip.Addr{netip.MustParseAddr("93.184.216.34")}) {
			t.Errorf("pinned: %+v", p)
		}
		acknowledged.Store(true)
	}
	m.open(bank(1))
	p := m.proxy(1)
	addrs, _ := p.ask("bank.example.", typeA)
	if len(addrs) != 1 || !acknowledged.Load() {
		t.Errorf("answered with %v, pinned: %v", addrs, acknowledged.Load())
	}
	for range 10 { // what is pinned needs no other pin
		p.ask("bank.example.", typeA)
	}
	if n := m.count(func(r wire.Report) bool { return r.Pin != nil }); n != 1 {
		t.Errorf("%d pins", n)
	}
	m.open(bank(2))
	m.mu.Lock()
	m.acked, m.refuse = nil, true
	m.mu.Unlock()
	if addrs, code := m.proxy(2).ask("bank.example.", typeA); len(addrs) > 0 || code != dnsmessage.RCodeServerFailure {
		t.Errorf("not pinned: %v, %v", addrs, code)
	}
	m.event(2, wire.ServerError)
	m.mu.Lock()
	m.refuse = false
	m.mu.Unlock()
	if addrs, _ := m.proxy(2).ask("bank.example.", typeA); len(addrs) != 1 || !m.isPinned("93.184.216.34", 2) {
		t.Errorf("pinned at last: %v", addrs)
	}
}

// A listed name that leads to where no proxy may go is not answered, and nothing of it is pinned, unless an opening leads there.
func TestPrivateAddresses(t *testing.T) {
	t.Parallel()
	server := serve(t, func(q dnsmessage.Question) *reply {
		switch first, _, _ := strings.Cut(q.Name.String(), "."); first {
		case "mixed":
			return a(q, 300, "192.168.1.1", "93.184.216.34", "127.0.0.1")
		case "lan":
			return a(q, 300, "10.1.2.3", "10.9.9.9")
		case "six":
			return a(q, 300, "fd00::1", "::ffff:10.0.0.1", "fe80::1", "2606:2800::1")
		}
		return a(q, 300, "192.168.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.1")
	})
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	g := bank(1)
	g.Openings = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	m.open(g)
	m.open(bank(2))
	for _, tt := range []struct {
		uid  uint32
		name string
		typ  dnsmessage.Type
		want string
	}{
		{1, "bank.example.", typeA, ""}, {1, "mixed.wild.example.", typeA, "93.184.216.34"}, {1, "six.wild.example.", typeAAAA, "2606:2800::1"},
		{1, "lan.wild.example.", typeA, "10.1.2.3"}, {2, "lan.wild.example.", typeA, ""},
	} {
		addrs, code := m.proxy(tt.uid).ask(tt.name, tt.typ)
		if strings.Join(addrs, " ") != tt.want || code != dnsmessage.RCodeSuccess {
			t.Errorf("%s for %d: %v, %v", tt.name, tt.uid, addrs, code)
		}
	}
	if e := m.event(1, wire.Fence); e.Name != "bank.example" || !strings.Contains(e.Why, "192.168.1.1, 127.0.0.1, 169.254.169.254, 1 more") {
		t.Errorf("told: %+v", e)
	}
	m.event(2, wire.Fence)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pinned) != 2 {
		t.Errorf("pinned: %v", m.pinned)
	}
}

// What an alias leads to is answered under the name that was asked for, whether the list has the other name or not.
func TestAliases(t *testing.T) {
	t.Parallel()
	server := serve(t, func(q dnsmessage.Question) *reply {
		target := dnsmessage.MustNewName("cdn.unlisted.example.")
		r := a(dnsmessage.Question{Name: target, Type: q.Type}, 300, "93.184.216.34")
		if q.Name != target {
			alias := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 300},
				Body: &dnsmessage.CNAMEResource{CNAME: target}}
			r.records = append([]dnsmessage.Resource{alias}, r.records...)
		}
		return r
	})
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(bank(1))
	p := m.proxy(1)
	if addrs, code := p.ask("bank.example.", typeA); !slices.Equal(addrs, []string{"93.184.216.34"}) || !m.isPinned("93.184.216.34", 1) {
		t.Errorf("the listed name: %v, %v", addrs, code)
	}
	if addrs, code := p.ask("cdn.unlisted.example.", typeA); len(addrs) > 0 || code != dnsmessage.RCodeRefused {
		t.Errorf("the other name: %v, %v", addrs, code)
	}
}

// Where A answers, AAAA is answered empty, even by a server that never answers it. Where it does not, AAAA is answered.
func TestOneFamily(t *testing.T) {
	t.Parallel()
	server := serve(t, func(q dnsmessage.Question) *reply {
		if q.Name.String() == "six.wild.example." {
			return a(q, 300, "2606:2800::1")
		}
		if q.Type == typeAAAA {
			return nil
		}
		return a(q, 300, "93.184.216.34")
	})
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(bank(1))
	p := m.proxy(1)
	for _, tt := range []struct {
		name string
		typ  dnsmessage.Type
		want string
	}{
		{"bank.example.", typeAAAA, ""}, {"bank.example.", typeA, "93.184.216.34"},
		{"six.wild.example.", typeA, ""}, {"six.wild.example.", typeAAAA, "2606:2800::1"},
	} {
		if addrs, code := p.ask(tt.name, tt.typ); strings.Join(addrs, " ") != tt.want || code != dnsmessage.RCodeSuccess {
			t.Errorf("%s %v: %v, %v", tt.name, tt.typ, addrs, code)
		}
	}
	if m.count(func(r wire.Report) bool { return r.Event != nil }) > 0 {
		t.Errorf("told: %s", describe(m.reports))
	}
}

// What name servers say that is no address is told at once, with the reason.
func TestFailuresAreTold(t *testing.T) {
	t.Parallel()
	server := serve(t, func(q dnsmessage.Question) *reply {
		switch first, _, _ := strings.Cut(q.Name.String(), "."); first {
		case "gone":
			return &reply{code: dnsmessage.RCodeNameError}
		case "empty":
			return &reply{}
		}
		return &reply{code: dnsmessage.RCodeServerFailure}
	})
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(bank(1))
	p := m.proxy(1)
	for name, want := range map[string]struct {
		code    dnsmessage.RCode
		failure wire.Failure
	}{
		"gone.wild.example.":  {dnsmessage.RCodeNameError, wire.NoSuchName},
		"empty.wild.example.": {dnsmessage.RCodeSuccess, wire.NoAddress},
		"bank.example.":       {dnsmessage.RCodeServerFailure, wire.ServerError},
	} {
		if addrs, code := p.ask(name, typeA); len(addrs) > 0 || code != want.code {
			t.Errorf("%s: %v, %v", name, addrs, code)
		}
		if e := m.event(1, want.failure); e.Name+"." != name || e.Type != "A" || e.Why == "" {
			t.Errorf("%s: told %+v", name, e)
		}
	}
	nowhere := start(t, wire.Settings{})
	nowhere.open(bank(1))
	if _, code := nowhere.proxy(1).ask("bank.example.", typeA); code != dnsmessage.RCodeServerFailure {
		t.Errorf("without a name server: %v", code)
	}
	if e := nowhere.event(1, wire.ServerError); !strings.Contains(e.Why, "no name server") {
		t.Errorf("told %+v", e)
	}
}

// However often a name's addresses change, each answer is pinned, and the pins of one uid are bounded: the oldest go.
func TestChangingAddresses(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	const perName = 16
	server := serve(t, func(q dnsmessage.Question) *reply {
		i := n.Add(1)
		if strings.HasSuffix(q.Name.String(), ".wild.example.") {
			var many []string
			for j := range perName {
				many = append(many, fmt.Sprintf("93.%d.%d.%d", 186+i/250, i%250, j))
			}
			return a(q, 3600, many...)
		}
		return a(q, 0, fmt.Sprintf("93.184.%d.%d", i/250, i%250), fmt.Sprintf("93.185.%d.%d", i/250, i%250))
	})
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(bank(1))
	var wait sync.WaitGroup
	for range 4 {
		p := m.proxy(1)
		wait.Go(func() {
			for range 80 {
				addrs, code := p.ask("bank.example.", typeA)
				for _, addr := range addrs {
					if !m.isPinned(addr, 1) {
						t.Errorf("%s is answered and not pinned", addr)
					}
				}
				if len(addrs) == 0 {
					t.Errorf("no address, %v", code)
				}
			}
		})
	}
	wait.Wait()
	p := m.proxy(1)
	for i := range pinsMax/perName + 8 {
		if addrs, code := p.ask(fmt.Sprintf("n%d.wild.example.", i), typeA); len(addrs) != perName {
			t.Errorf("name %d: %v, %v", i, addrs, code)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pinned) > pinsMax {
		t.Errorf("%d addresses are pinned", len(m.pinned))
	}
}

// A C library that asks again for what is under way gets one answer, and the same again later.
func TestAskedTwice(t *testing.T) {
	t.Parallel()
	ask := make(chan bool)
	server := serve(t, func(q dnsmessage.Question) *reply {
		if q.Type == typeA {
			<-ask
		}
		return public(q)
	})
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(bank(1))
	p := m.proxy(1)
	for _, id := range []uint16{7, 7, 8} {
		if _, err := p.Write(question(id, "bank.example.", typeA)); err != nil {
			t.Fatal(err)
		}
	}
	if _, code := p.ask("unlisted.example.", typeA); code != dnsmessage.RCodeRefused { // questions are read in order, so all three are under way
		t.Errorf("code %v", code)
	}
	close(ask)
	if first, second := p.receive(), p.receive(); first.ID == second.ID || len(first.Answers) != 1 || len(second.Answers) != 1 {
		t.Errorf("answers: %+v, %+v", first, second)
	}
	if next := p.send(question(9, "bank.example.", typeA)); next.ID != 9 {
		t.Errorf("another answer: %+v", next)
	}
}

// A pin that is forgotten is taken away too. The daemon rounds times up by 30 s, and what is pinned then, and not remembered, would stay
// open when its gate closes.
func TestNoPinIsOnlyForgotten(t *testing.T) {
	t.Parallel()
	r := &Resolver{reports: make(chan wire.Report, reportsMax), life: t.Context()}
	r.byAddr.Store(&map[netip.Addr]*party{})
	p := newParty(r, 1, netip.MustParseAddr("127.64.0.1"))
	for i := range pinsMax {
		p.pins[netip.AddrFrom4([4]byte{93, 184, byte(i >> 8), byte(i)})] = &pin{until: time.Now().Add(-time.Second), names: []string{"bank.example"}, pinned: true}
	}
	p.makeRoom([]netip.Addr{netip.MustParseAddr("93.185.0.1")})
	unpinned := 0
	for len(r.reports) > 0 {
		unpinned += len((<-r.reports).Unpin.Addrs)
	}
	if forgotten := pinsMax - len(p.pins); forgotten == 0 || unpinned != forgotten {
		t.Errorf("%d pins are forgotten, %d are taken away", forgotten, unpinned)
	}
}

// What could not be pinned is taken away: the kernel may have a part of it, or get it late.
func TestNoPinComesLate(t *testing.T) {
	t.Parallel()
	server := serve(t, public)
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(bank(1))
	m.mu.Lock()
	m.refuse = true
	m.mu.Unlock()
	if addrs, code := m.proxy(1).ask("bank.example.", typeA); len(addrs) > 0 || code != dnsmessage.RCodeServerFailure {
		t.Errorf("answered with %v, %v", addrs, code)
	}
	pin := m.until("a pin", func(r wire.Report) bool { return r.Pin != nil }).Pin
	m.until("its end", func(r wire.Report) bool { return r.Unpin != nil && slices.Equal(r.Unpin.Addrs, pin.Addrs) })
}

// What hosts(5) says is pinned again before its pin ends, also for an AppVM that came between two looks.
func TestHostsStayPinned(t *testing.T) {
	t.Parallel()
	r := &Resolver{reports: make(chan wire.Report, reportsMax), life: t.Context()}
	r.byAddr.Store(&map[netip.Addr]*party{})
	p := newParty(r, 1, netip.MustParseAddr("127.64.0.1"))
	order := bank(1)
	order.ID, order.Language = 1, "ere"
	g, err := newGate(&order)
	if err != nil {
		t.Fatal(err)
	}
	p.gates = []*gate{g}
	soon, later := netip.MustParseAddr("93.184.216.1"), netip.MustParseAddr("93.184.216.2")
	for addr, left := range map[netip.Addr]time.Duration{soon: hostsInterval, later: 2 * hostsInterval} {
		p.pins[addr] = &pin{until: time.Now().Add(left), names: []string{"bank.example"}, pinned: true}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody answers here
	p.pinHosts(ctx, map[string][]netip.Addr{"bank.example": {soon, later}})
	if len(r.reports) == 0 {
		t.Fatal("nothing is pinned")
	}
	if pin := (<-r.reports).Pin; pin == nil || !slices.Equal(pin.Addrs, []netip.Addr{soon}) {
		t.Errorf("%+v", pin)
	}
}
