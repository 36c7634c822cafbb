package names

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/names/wire"
)

// No message makes the parser panic. What it takes for a question has one, nothing beside it, and a reply that says the same.
func FuzzParse(f *testing.F) {
	for _, tt := range strangeQuestions {
		f.Add(tt.text)
	}
	f.Add(question(1, "bank.example.", typeA))
	f.Add(append(setCount(question(2, "Bank.example.", typeAAAA), 3, 1), 0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8))
	f.Add(question(3, "1.0.0.127.in-addr.arpa.", dnsmessage.TypePTR))
	addrs := []netip.Addr{netip.MustParseAddr("93.184.216.34"), netip.MustParseAddr("2606:2800::1")}
	f.Fuzz(func(t *testing.T, text []byte) {
		q, is := parse(text)
		if is == malformed {
			return
		}
		if is == addresses && (q.question.Type != typeA && q.question.Type != typeAAAA || q.name() == "" || len(text) > 12+256+4 && !q.edns) {
			t.Fatalf("%q is taken for %+v", text, q)
		}
		six := q.question.Type == typeAAAA
		given := slices.Repeat(addrs, max(room(q.name(), six), 0))
		reply, err := q.reply(dnsmessage.RCodeSuccess, given, 0)
		if err != nil || len(reply) > replyMax {
			t.Fatalf("%q: a reply of %d bytes, %v", text, len(reply), err)
		}
		var m dnsmessage.Message
		if err := m.Unpack(reply); err != nil || m.ID != q.header.ID || !m.Response || len(m.Questions) != 1 || m.Questions[0] != q.question {
			t.Fatalf("%q: the reply is %+v, %v", text, m, err)
		}
		for _, c := range []byte(readable(q.name())) {
			if !isHostByte(c) && c != '\\' {
				t.Fatalf("%q is shown as %q", q.name(), readable(q.name()))
			}
		}
	})
}

// No message and no list makes the resolver panic. A name that a white list does not have is not looked for.
func FuzzMessage(f *testing.F) {
	for _, tt := range strangeQuestions {
		f.Add(tt.text, `^bank\.example$`, byte(0))
	}
	f.Add(question(1, "bank.example.", typeA), `(a)\1`, byte(3))
	f.Fuzz(func(t *testing.T, text []byte, line string, how byte) {
		q, is := parse(text)
		if is != addresses {
			return
		}
		g, err := newGate(&wire.Gate{ID: 1, Lines: strings.Split(line, "\n"), Language: []string{"bre", "ere", "fnmatch"}[how%3],
			DefaultAllow: how&4 != 0, CaseSensitive: how&8 != 0})
		if err != nil {
			t.Fatal(err)
		}
		v := g.permits(q.name())
		if v == yes && !sendable(q.name()) {
			t.Errorf("%q is permitted", q.name())
		}
		if again := g.permits(q.name()); again != v {
			t.Errorf("%q: %v, and then %v", q.name(), v, again)
		}
		if v == doubt && len(g.doubtful(q.name())) == 0 {
			t.Errorf("%q: nobody can tell", q.name())
		}
	})
}
