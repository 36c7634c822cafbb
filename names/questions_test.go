package names

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/internal/await"
	"vifproxy/names/wire"
)

const (
	typeA    = dnsmessage.TypeA
	typeAAAA = dnsmessage.TypeAAAA
)

// public answers every name with one public address.
func public(q dnsmessage.Question) *reply { return a(q, 300, "93.184.216.34") }

var bankHosts = []wire.Host{{Addr: netip.MustParseAddr("93.184.216.34"), Names: []string{"Bank.example"}}}

func bank(uid uint32) wire.Gate {
	return wire.Gate{UID: uid, Lines: []string{`^bank\.example$`, `^[a-zA-Z0-9._-]*\.wild\.example$`}}
}

// strangeQuestions are what only an owned proxy sends, and whether it gets an answer.
var strangeQuestions = []struct {
	what     string
	text     []byte
	answered bool
	typ      string // that people are told of
}{
	{"an unlisted name", question(1, "evil.example.", typeA), true, "A"},
	{"what it steals in labels", question(2, "c2VjcmV0c2VjcmV0c2VjcmV0.6162636465.evil.example.", typeA), true, ""},
	{"what it steals below a listed name", question(3, "c2VjcmV0.bank.example.", typeAAAA), true, ""},
	{"a listed name in an unlisted one", question(4, "bank.example.evil.example.", typeA), true, ""},
	{"TXT", question(5, "bank.example.", dnsmessage.TypeTXT), true, "TXT"},
	{"ANY", question(6, "bank.example.", dnsmessage.TypeALL), true, "ALL"},
	{"AXFR", question(7, "bank.example.", 252), true, "AXFR"},
	{"HTTPS", question(8, "bank.example.", 65), true, "HTTPS"},
	{"LOC", question(27, "bank.example.", 29), true, "TYPE29"},
	{"CNAME", question(9, "bank.example.", dnsmessage.TypeCNAME), true, ""},
	{"the root", question(10, ".", typeA), true, ""},
	{"PTR for a name", question(11, "bank.example.", dnsmessage.TypePTR), true, ""},
	{"a zero byte", question(12, "bank.example\x00.evil.example.", typeA), true, ""},
	{"a newline", question(13, "bank.example\nx.", typeA), true, ""},
	{"another class", patch(question(14, "bank.example.", typeA), -1, 3), true, ""},
	{"another opcode", patch(question(15, "bank.example.", typeA), 2, 0x28), true, ""},
	{"two questions", append(setCount(question(16, "bank.example.", typeA), 0, 2), question(0, "evil.example.", typeA)[12:]...), false, ""},
	{"two questions, of which the second is compressed", append(setCount(question(17, "bank.example.", typeA), 0, 2), 0xc0, 12, 0, 16, 0, 1), false, ""},
	{"a question too few", setCount(question(18, "bank.example.", typeA), 0, 0), false, ""},
	{"more than a question", append(question(19, "bank.example.", typeA), "secret"...), false, ""},
	{"much more than a question", append(question(28, "bank.example.", typeA), strings.Repeat("secret", 100)...), false, ""},
	{"an answer", patch(question(20, "bank.example.", typeA), 2, 0x81), false, ""},
	{"a question with an answer", append(setCount(question(21, "bank.example.", typeA), 1, 1), record(1, "abcd")...), true, ""},
	{"a question with a signature", append(setCount(question(22, "bank.example.", typeA), 3, 1), record(250, "abcd")...), true, ""},
	{"a name that leads to itself", []byte("\x00\x17\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"), false, ""},
	{"a label with a period", []byte("\x00\x18\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0cbank.example\x00\x00\x01\x00\x01"), false, ""},
	{"a header alone", question(25, "bank.example.", typeA)[:12], false, ""},
	{"half a header", question(26, "bank.example.", typeA)[:5], false, ""},
	{"nothing", nil, false, ""},
}

// patch sets one byte of a message, counted from its end if it is negative.
func patch(text []byte, at int, to byte) []byte {
	if at < 0 {
		at += len(text)
	}
	text[at] = to
	return text
}

// record is a record of the root.
func record(t byte, data string) []byte {
	return append([]byte{0, 0, t, 0, 1, 0, 0, 0, 0, 0, byte(len(data))}, data...)
}

// What no tinyproxy asks is not answered with an address, reaches no name server, and is counted. What comes next is answered.
func TestStrangeQuestions(t *testing.T) {
	t.Parallel()
	server := serve(t, public)
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}, Hosts: bankHosts})
	for i, tt := range strangeQuestions {
		t.Run(tt.what, func(t *testing.T) {
			uid := uint32(1000 + i)
			m.open(bank(uid))
			p := m.proxy(uid)
			p.TB = t
			if tt.answered {
				if got := p.send(tt.text); len(got.Answers) > 0 || got.RCode != dnsmessage.RCodeRefused {
					t.Errorf("answered with %+v", got)
				}
			} else if _, err := p.Write(tt.text); err != nil {
				t.Fatal(err)
			}
			if e := m.event(uid, wire.Owned); e.Count != 1 || e.Why == "" || tt.typ != "" && e.Type != tt.typ {
				t.Errorf("counted %+v", e)
			}
			if addrs, code := p.ask("bank.example.", typeA); !slices.Equal(addrs, []string{"93.184.216.34"}) {
				t.Errorf("the question after that is answered with %v, %v", addrs, code)
			}
		})
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	if len(server.seen) > 0 {
		t.Errorf("the name server was asked for %v", server.seen)
	}
}

// An asker without a gate gets nothing, whatever it asks.
func TestNoGate(t *testing.T) {
	t.Parallel()
	m := start(t, wire.Settings{Hosts: bankHosts})
	stranger := m.proxy(7)
	if _, err := stranger.Write(question(1, "bank.example.", typeA)); err != nil {
		t.Fatal(err)
	}
	id := m.open(bank(8))
	if addrs, _ := m.proxy(8).ask("bank.example.", typeA); len(addrs) != 1 {
		t.Errorf("with a gate: %v", addrs)
	}
	_ = stranger.SetReadDeadline(time.Now().Add(time.Millisecond)) // its question came before
	if n, err := stranger.Read(make([]byte, 512)); err == nil {
		t.Errorf("without a gate: %d bytes", n)
	}
	m.close(id)
	if addrs, code := m.proxy(8).ask("bank.example.", typeA); len(addrs) > 0 || code != dnsmessage.RCodeRefused {
		t.Errorf("after the gate: %v, %v", addrs, code)
	}
}

// The first strange question is told of at once, and all are counted.
func TestOwnedIsCounted(t *testing.T) {
	t.Parallel()
	m := start(t, wire.Settings{Domain: "lab.example"})
	m.open(bank(1))
	p := m.proxy(1)
	for i := range 50 {
		p.ask(fmt.Sprintf("secret%d.evil.example.", i), typeA)
		if e := m.event(1, wire.Owned); e.Name != "secret0.evil.example" || e.Type != "A" || e.Count != 1 {
			t.Fatalf("the first event is %+v", e)
		}
	}
	m.until("the rest", func(r wire.Report) bool {
		return r.Event != nil && r.Event.Failure == wire.Owned && r.Event.Count > 1
	})
	await.Until(t, "all are counted", func() bool { return m.events(1, wire.Owned) >= 50 })
	if got := m.events(1, wire.Owned); got != 50 {
		t.Errorf("%d are counted", got)
	}
}

// What tinyproxy and the C library ask by themselves is no reason for an alarm, and reaches no name server.
func TestWhatTheCLibraryAdds(t *testing.T) {
	t.Parallel()
	server := serve(t, public)
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}, Search: []string{"corp.example."}, Domain: "Lab.example"})
	m.open(bank(1))
	p := m.proxy(1)
	for _, name := range []string{"34.216.184.93.in-addr.arpa.", "1.0.0.0.ip6.arpa."} {
		if addrs, code := p.ask(name, dnsmessage.TypePTR); len(addrs) > 0 || code != dnsmessage.RCodeNameError {
			t.Errorf("%s: %v, %v", name, addrs, code)
		}
	}
	for _, name := range []string{"bank.example.lab.example.", "Bank.Example.LAB.example.", "bank.example.corp.example.", "www.wild.example.corp.example."} {
		if addrs, code := p.ask(name, typeA); len(addrs) > 0 || code != dnsmessage.RCodeNameError {
			t.Errorf("%s: %v, %v", name, addrs, code)
		}
	}
	if len(server.seen) > 0 || m.events(1, wire.Owned) > 0 {
		t.Errorf("asked for %v, %d alarms", server.seen, m.events(1, wire.Owned))
	}
	for _, name := range []string{"evil.example.lab.example.", "lab.example.", ".", "xbank.example.lab.example."} {
		if _, code := p.ask(name, typeA); code != dnsmessage.RCodeRefused {
			t.Errorf("%q: %v", name, code)
		}
	}
	m.event(1, wire.Owned)
}

// A message of the C library with EDNS gets EDNS, and one without gets none. Both have the question as it came.
func TestHeaders(t *testing.T) {
	t.Parallel()
	m := start(t, wire.Settings{Hosts: bankHosts})
	m.open(bank(1))
	p := m.proxy(1)
	plain := question(7, "bAnk.example.", typeA)
	withEDNS := append(setCount(slices.Clone(plain), 3, 1), 0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0)
	got := p.send(plain)
	if got.ID != 7 || !got.RecursionAvailable || !got.RecursionDesired || got.Questions[0].Name.String() != "bAnk.example." ||
		len(got.Additionals) > 0 || !slices.Equal(addressesOf(got), []string{"93.184.216.34"}) {
		t.Errorf("without EDNS: %+v", got)
	}
	if got := p.send(withEDNS); len(got.Additionals) != 1 || got.Additionals[0].Header.Type != dnsmessage.TypeOPT || len(got.Answers) != 1 {
		t.Errorf("with EDNS: %+v", got)
	}
	cookie := append(setCount(slices.Clone(plain), 3, 1), 0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8)
	if got := p.send(cookie); len(got.Answers) != 1 {
		t.Errorf("with a cookie: %+v", got)
	}
}

// However many addresses a name has, and however long it is, the answer fits, and all of it is pinned.
func TestAnswersFit(t *testing.T) {
	t.Parallel()
	server := serve(t, func(q dnsmessage.Question) *reply {
		var v4, v6 []string
		for i := range 20 {
			v4 = append(v4, fmt.Sprintf("93.184.216.%d", i))
			v6 = append(v6, fmt.Sprintf("2606:2800::%d", i))
		}
		if strings.HasPrefix(q.Name.String(), "six.") {
			return a(q, 300, v6...)
		}
		return a(q, 300, v4...)
	})
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(bank(1))
	p := m.proxy(1)
	long := strings.Repeat(strings.Repeat("x", 59)+".", 4) + "wild.example." // 253 bytes
	for _, tt := range []struct {
		name string
		typ  dnsmessage.Type
		want int
	}{
		{"bank.example.", typeA, addrsMax}, {"six.wild.example.", typeAAAA, addrsMax}, {long, typeA, 14},
	} {
		addrs, code := p.ask(tt.name, tt.typ)
		if len(addrs) != tt.want {
			t.Errorf("%s: %d addresses, %v", tt.name, len(addrs), code)
		}
		for _, addr := range addrs {
			if !m.isPinned(addr, 1) {
				t.Errorf("%s is not pinned", addr)
			}
		}
	}
}
