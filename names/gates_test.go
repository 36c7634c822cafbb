package names

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/names/wire"
)

// While two generations serve, both lists hold. When the older one ends, what only it permitted is unpinned before the daemon hears that
// its gate is closed, and is refused without an alarm.
func TestGatesAreByGeneration(t *testing.T) {
	t.Parallel()
	server := serve(t, func(q dnsmessage.Question) *reply {
		if q.Name.String() == "shared.example." {
			return a(q, 300, "93.184.216.2", "93.184.216.9")
		}
		return a(q, 300, fmt.Sprintf("93.184.216.%d", q.Name.Data[0]-'a'+1))
	})
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	older := m.open(wire.Gate{UID: 1, Lines: []string{`^a\.example$`, `^b\.example$`, `^shared\.example$`}})
	p := m.proxy(1)
	for _, name := range []string{"a.example.", "b.example.", "shared.example."} {
		if addrs, code := p.ask(name, typeA); len(addrs) == 0 {
			t.Errorf("%s: %v", name, code)
		}
	}
	newer := m.open(wire.Gate{UID: 1, Lines: []string{`^b\.example$`, `^c\.example$`}})
	for _, name := range []string{"a.example.", "b.example.", "c.example."} {
		if addrs, code := p.ask(name, typeA); len(addrs) != 1 {
			t.Errorf("%s with both: %v", name, code)
		}
	}
	m.close(older)
	for addr, want := range map[string]bool{"93.184.216.1": false, "93.184.216.2": true, "93.184.216.9": false} {
		if m.isPinned(addr, 1) != want {
			t.Errorf("%s is pinned: %v", addr, !want)
		}
	}
	if !m.before(func(r wire.Report) bool { return r.Unpin != nil }, func(r wire.Report) bool { return r.Closed == older }) {
		t.Errorf("the daemon hears of pins after the gate: %s", describe(m.reports))
	}
	if addrs, code := p.ask("a.example.", typeA); len(addrs) > 0 || code != dnsmessage.RCodeRefused {
		t.Errorf("a.example: %v, %v", addrs, code)
	}
	if addrs, _ := p.ask("c.example.", typeA); len(addrs) != 1 {
		t.Error("c.example has no address")
	}
	if m.events(1, wire.Owned) > 0 {
		t.Errorf("an alarm: %s", describe(m.reports))
	}
	m.close(newer)
	if m.isPinned("93.184.216.2", 1) || m.isPinned("93.184.216.3", 1) {
		t.Error("an address stays pinned")
	}
}

// The uids have nothing in common: neither permissions, nor pins, nor answers.
func TestNeighboursShareNothing(t *testing.T) {
	t.Parallel()
	server := serve(t, public)
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(bank(1))
	m.open(wire.Gate{UID: 2, Lines: []string{`^shop\.example$`}})
	m.open(bank(3))
	if addrs, _ := m.proxy(1).ask("bank.example.", typeA); len(addrs) != 1 {
		t.Error("no address")
	}
	if _, code := m.proxy(2).ask("bank.example.", typeA); code != dnsmessage.RCodeRefused {
		t.Errorf("a neighbour's name: %v", code)
	}
	before := server.asked("bank.example.")
	if addrs, _ := m.proxy(3).ask("bank.example.", typeA); len(addrs) != 1 {
		t.Error("no address")
	}
	if server.asked("bank.example.") == before {
		t.Error("an answer tells what a neighbour has asked")
	}
	if a := m.look(2, "bank.example"); a.Failure != wire.Owned {
		t.Errorf("asked by the daemon for uid 2: %+v", a)
	}
	if a := m.look(1, "bank.example"); a.Failure != "" || len(a.Addrs) != 1 || a.TTL < 1 {
		t.Errorf("asked by the daemon for uid 1: %+v", a)
	}
	if a := m.look(4, "bank.example"); a.Failure != wire.Owned {
		t.Errorf("asked by the daemon for a uid without a gate: %+v", a)
	}
}

// What a list permits, of names as they may come: in upper case, from a client that wrote a period at the end, and so on.
func TestWhatListsPermit(t *testing.T) {
	t.Parallel()
	server := serve(t, public)
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.judge = func(d wire.Doubt) bool { return strings.HasPrefix(d.Name, "judged") }
	for i, tt := range []struct {
		gate            wire.Gate
		permits, denies string
		quiet           bool // clients choose names, so that a refused one is no alarm
	}{
		{wire.Gate{Lines: []string{`^bank\.example$`}}, "bank.example. BANK.example.", "bank.example.org. xbank.example.", false},
		{wire.Gate{Lines: []string{`^bank\.example\.$`}}, "bank.example. BANK.example.", "bank.example.org.", false},
		{wire.Gate{Lines: []string{`^Bank\.example$`}, CaseSensitive: true}, "Bank.example.", "bank.example. BANK.example.", false},
		{wire.Gate{Lines: []string{`^bank\.example$`}, CaseSensitive: true}, "Bank.example. bank.example.", "bank.exampl.", false},
		{wire.Gate{Lines: []string{`*.bank.example`}, Language: "fnmatch", CaseSensitive: true}, "www.bank.example.", "bank.example.", false},
		{wire.Gate{Lines: []string{`\(a\|b\)\.example`}, Language: "bre"}, "a.example. xb.example.", "c.example.", false},
		{wire.Gate{}, "", "bank.example.", false},
		{wire.Gate{Also: []string{"Proxy.Corp.example."}}, "proxy.corp.example.", "corp.example.", false},
		{wire.Gate{Everything: true}, "bank.example. x.", "a\nb.example. a\x00b.example.", true},
		{wire.Gate{DefaultAllow: true, Lines: []string{`^evil\.example\.?$`}}, "bank.example.", "evil.example. EVIL.example.", true},
		{wire.Gate{DefaultAllow: true, Lines: []string{`^\(a\)\1\.example`}, Language: "bre"}, "judged.example. judgedtoo.example.", "aa.example. b.example.", true},
		{wire.Gate{DefaultAllow: true, Lines: []string{`^judged`, `^(a)\1`}}, "", "judged.example.", true},
	} {
		uid := uint32(100 + i)
		tt.gate.UID = uid
		m.open(tt.gate)
		p := m.proxy(uid)
		for name := range strings.FieldsSeq(tt.permits) {
			if addrs, code := p.ask(name, typeA); !slices.Equal(addrs, []string{"93.184.216.34"}) {
				t.Errorf("%+v: %q is answered with %v", tt.gate, name, code)
			}
		}
		for name := range strings.FieldsFuncSeq(tt.denies, func(r rune) bool { return r == ' ' }) {
			if addrs, code := p.ask(name, typeA); len(addrs) > 0 || code != dnsmessage.RCodeRefused {
				t.Errorf("%+v: %q is answered with %v, %v", tt.gate, name, addrs, code)
			}
		}
		if !tt.quiet {
			m.event(uid, wire.Owned)
		} else if m.events(uid, wire.Owned) > 0 {
			t.Errorf("%+v: an alarm", tt.gate)
		}
	}
}

// A name that only a real tinyproxy can compare is judged once, when one can be asked.
func TestJudgedOnce(t *testing.T) {
	t.Parallel()
	server := serve(t, public)
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.judge = func(d wire.Doubt) bool { return d.Name == "b.example" }
	m.open(wire.Gate{UID: 1, DefaultAllow: true, Lines: []string{`(a)\1`}})
	p := m.proxy(1)
	m.unheard = 1
	if addrs, code := p.ask("b.example.", typeA); len(addrs) > 0 || code != dnsmessage.RCodeServerFailure {
		t.Errorf("b.example, without a judgement: %v, %v", addrs, code)
	}
	for range 3 {
		if addrs, code := p.ask("b.example.", typeA); len(addrs) != 1 {
			t.Errorf("b.example: %v", code)
		}
		if addrs, code := p.ask("c.example.", typeA); len(addrs) > 0 || code != dnsmessage.RCodeRefused {
			t.Errorf("c.example: %v, %v", addrs, code)
		}
	}
	if n := m.count(func(r wire.Report) bool { return r.Judge != nil }); n != 4 { // b twice, c and "c."
		t.Errorf("%d judgements", n)
	}
}

// What a hostile name server says to the daemon is still something that the resolver can report.
func TestTheDaemonIsAnswered(t *testing.T) {
	t.Parallel()
	server := serve(t, func(q dnsmessage.Question) *reply {
		switch first, _, _ := strings.Cut(q.Name.String(), "."); first {
		case "mapped":
			return a(q, 1<<31, "::ffff:10.0.0.1")
		case "many":
			var many []string
			for i := range 100 {
				many = append(many, fmt.Sprintf("10.0.0.%d", i))
			}
			return a(q, 0, many...)
		}
		return &reply{code: dnsmessage.RCodeNameError}
	})
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	for name, want := range map[string]wire.Failure{
		"mapped.example": wire.NoAddress, "many.example": "", "gone.example": wire.NoSuchName, "": wire.NoSuchName, "..": wire.NoSuchName,
		"a\x00\n.example": wire.NoSuchName, strings.Repeat("x.", 600): wire.NoSuchName, strings.Repeat("y", 64): wire.NoSuchName,
	} {
		if a := m.look(0, name); a.Failure != want || want == "" && len(a.Addrs) != wire.AddrsMax {
			t.Errorf("%q is answered with %+v", name, a)
		}
	}
}

// An Upstream's name leads to the addresses that the daemon was answered with, because the fence has opened these. Until the daemon asks,
// it leads wherever name servers say: a resolver that was started again knows of no answer, and the fence keeps what it has opened.
func TestUpstreams(t *testing.T) {
	t.Parallel()
	var moved atomic.Bool
	server := serve(t, func(q dnsmessage.Question) *reply {
		if moved.Load() {
			return a(q, 0, "10.0.0.2")
		}
		return a(q, 0, "10.0.0.1")
	})
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(wire.Gate{UID: 1, Also: []string{"proxy.corp.example"}, Lines: []string{`^bank\.example$`}})
	p := m.proxy(1)
	if addrs, code := p.ask("proxy.corp.example.", typeA); !slices.Equal(addrs, []string{"10.0.0.1"}) {
		t.Errorf("before the daemon asks: %v, %v", addrs, code)
	}
	if a := m.look(0, "Proxy.corp.example"); len(a.Addrs) != 1 || a.Failure != "" {
		t.Errorf("the daemon is answered with %+v", a)
	}
	moved.Store(true)
	if addrs, _ := p.ask("proxy.corp.example.", typeA); !slices.Equal(addrs, []string{"10.0.0.1"}) {
		t.Errorf("after that: %v", addrs)
	}
	if addrs, _ := p.ask("bank.example.", typeA); len(addrs) > 0 {
		t.Errorf("another name: %v", addrs)
	}
	m.event(1, wire.Fence)
	if m.isPinned("10.0.0.1", 1) {
		t.Error("a private address is pinned")
	}
}

// With hosts(5) a name is answered as the file says, and no name server is asked. Where the C library reads the file itself, what
// permitted names have there is pinned before anybody asks.
func TestHosts(t *testing.T) {
	t.Parallel()
	server := serve(t, public)
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}, PinHosts: true, Hosts: []wire.Host{
		{Addr: netip.MustParseAddr("2606:2800::1"), Names: []string{"bank.example"}},
		{Addr: netip.MustParseAddr("93.184.216.1"), Names: []string{"Bank.Example", "www.wild.example"}},
		{Addr: netip.MustParseAddr("93.184.216.2"), Names: []string{"bank.example", "evil.example"}},
		{Addr: netip.MustParseAddr("93.184.216.3"), Names: []string{"other.example"}},
		{Addr: netip.MustParseAddr("127.0.1.1"), Names: []string{"home.wild.example"}},
		{Addr: netip.MustParseAddr("fe80::1%lo"), Names: []string{"link.wild.example"}},
		{Addr: netip.MustParseAddr("::ffff:93.184.216.4"), Names: []string{"mapped.wild.example"}},
	}})
	m.open(bank(1))
	m.until("a pin", func(r wire.Report) bool {
		return r.Pin != nil && slices.Contains(r.Pin.Addrs, netip.MustParseAddr("93.184.216.1"))
	})
	m.until("another", func(r wire.Report) bool {
		return r.Pin != nil && slices.Contains(r.Pin.Addrs, netip.MustParseAddr("93.184.216.2"))
	})
	p := m.proxy(1)
	addrs, _ := p.ask("bank.example.", typeA)
	if slices.Sort(addrs); !slices.Equal(addrs, []string{"93.184.216.1", "93.184.216.2"}) {
		t.Errorf("bank.example: %v", addrs)
	}
	if addrs, code := p.ask("bank.example.", typeAAAA); len(addrs) > 0 || code != dnsmessage.RCodeSuccess {
		t.Errorf("AAAA: %v, %v", addrs, code)
	}
	if addrs, code := p.ask("home.wild.example.", typeA); len(addrs) > 0 || code != dnsmessage.RCodeSuccess {
		t.Errorf("this host: %v, %v", addrs, code)
	}
	m.event(1, wire.Fence)
	for name, want := range map[string]string{"link.wild.example": "fe80::1", "mapped.wild.example": "93.184.216.4"} {
		if a := m.look(0, name); a.Failure != "" || fmt.Sprint(a.Addrs) != "["+want+"]" {
			t.Errorf("the daemon is answered for %s with %+v", name, a)
		}
	}
	if m.isPinned("93.184.216.3", 1) || m.isPinned("127.0.1.1", 1) || len(server.seen) > 0 {
		t.Errorf("pinned: %v, asked for: %v", m.pinned, server.seen)
	}
}

// What is closed may be opened again, and the uid may then belong to another AppVM: nothing is left of the one before.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	server := serve(t, public)
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	p := m.proxy(1)
	for i := range 3 {
		id := m.open(bank(1))
		if addrs, _ := p.ask("bank.example.", typeA); len(addrs) != 1 {
			t.Error("no address")
		}
		if server.asked("bank.example.") < i+1 {
			t.Errorf("round %d is answered from the cache of the one before", i)
		}
		m.close(id)
	}
	if len(m.pinned) > 0 {
		t.Errorf("pinned: %v", m.pinned)
	}
}

// If a gate closes while name servers are asked, what they answer is neither pinned nor given to the proxy, and is no alarm.
func TestClosedMeanwhile(t *testing.T) {
	t.Parallel()
	came, answer := make(chan bool, 2), make(chan bool)
	server := serve(t, func(q dnsmessage.Question) *reply {
		if q.Type == typeA {
			came <- true
			<-answer
		}
		return public(q)
	})
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(wire.Gate{UID: 1, Lines: []string{`^shop\.example$`}})
	id := m.open(bank(1))
	p := m.proxy(1)
	if _, err := p.Write(question(1, "bank.example.", typeA)); err != nil {
		t.Fatal(err)
	}
	<-came
	m.close(id)
	close(answer)
	if got := p.receive(); len(got.Answers) > 0 || got.RCode != dnsmessage.RCodeRefused {
		t.Errorf("answered with %+v", got)
	}
	if n := m.count(func(r wire.Report) bool { return r.Pin != nil || r.Event != nil }); n > 0 {
		t.Errorf("reported: %s", describe(m.reports))
	}
}

// A name with bytes that no host has is refused where only a real tinyproxy could compare it: nobody could tell the daemon of such a name, and a
// resolver that tried would end, for all AppVMs.
func TestBytesThatNobodyCanJudge(t *testing.T) {
	t.Parallel()
	server := serve(t, public)
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(wire.Gate{UID: 1, DefaultAllow: true, Lines: []string{`^\(a\)\1\.example`}, Language: "bre"})
	m.open(bank(2))
	for _, name := range []string{"b\x01.example.", "caf\xc3\xa9.example.", "b\x7f.example.", "\xff.example."} {
		if addrs, code := m.proxy(1).ask(name, typeA); len(addrs) > 0 || code != dnsmessage.RCodeRefused {
			t.Errorf("%q: %v, %v", name, addrs, code)
		}
	}
	if addrs, _ := m.proxy(2).ask("bank.example.", typeA); len(addrs) != 1 {
		t.Error("a neighbour's name is not answered")
	}
}
