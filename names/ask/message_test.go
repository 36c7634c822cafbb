package ask

import (
	"errors"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// FuzzParse reads messages that a hostile server may send: what comes of them is bounded, and never about another question.
func FuzzParse(f *testing.F) {
	name := dnsmessage.MustNewName("bank.example.")
	header := func(t dnsmessage.Type) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, Type: t, TTL: 60}
	}
	for _, t := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		m := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: 1, Response: true, RecursionAvailable: true},
			Questions: []dnsmessage.Question{{Name: name, Type: t, Class: dnsmessage.ClassINET}},
			Answers: []dnsmessage.Resource{
				{Header: header(dnsmessage.TypeCNAME), Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName("www.bank.example.")}},
				{Header: header(dnsmessage.TypeA), Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}}},
				{Header: header(dnsmessage.TypeAAAA), Body: &dnsmessage.AAAAResource{AAAA: [16]byte{0x20, 1, 0xd, 0xb8}}},
				{Header: header(dnsmessage.TypeTXT), Body: &dnsmessage.TXTResource{TXT: []string{"text"}}},
			},
			Authorities: []dnsmessage.Resource{{Header: header(dnsmessage.TypeSOA), Body: &dnsmessage.SOAResource{NS: name, MBox: name, MinTTL: 9}}},
			Additionals: []dnsmessage.Resource{{Header: header(dnsmessage.TypeOPT), Body: &dnsmessage.OPTResource{}}},
		}
		for range len(m.Answers) {
			for _, truncated := range []bool{false, true} {
				m.Truncated = truncated
				text, err := m.Pack()
				if err != nil {
					f.Fatal(err)
				}
				f.Add(text)
			}
			m.Answers = m.Answers[1:]
		}
	}
	f.Add([]byte{0, 1, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0})                       // FORMERR, without the question
	f.Add([]byte{0, 1, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1}) // a name that leads to itself
	f.Fuzz(func(t *testing.T, message []byte) {
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
			q := dnsmessage.Question{Name: name, Type: kind, Class: dnsmessage.ClassINET}
			r, err := parse(message, 1, q)
			if err != nil && !errors.Is(err, errOther) && !errors.Is(err, errMalformed) {
				t.Fatal(err)
			}
			if len(r.Addrs) > AddrsMax || r.TTL < 0 || r.TTL > ttlMax {
				t.Fatalf("%d addresses, TTL %v", len(r.Addrs), r.TTL)
			}
			for _, addr := range r.Addrs {
				if addr.Is4() != (kind == dnsmessage.TypeA) || addr.Is4In6() {
					t.Fatalf("%v is no address of type %v", addr, kind)
				}
			}
			if r.NoSuchName && len(r.Addrs) > 0 {
				t.Fatal("a name that does not exist has addresses")
			}
			other := q
			other.Name = dnsmessage.MustNewName("other.example.")
			if _, otherErr := parse(message, 1, other); err == nil && otherErr == nil && r.rcode != dnsmessage.RCodeFormatError {
				t.Fatal("one message answers two questions")
			}
		}
	})
}

// FuzzValid holds names against the library: a name that is asked for can be asked for, and comes back as it was.
func FuzzValid(f *testing.F) {
	for _, name := range []string{"bank.example", "a", "-", "a..b", "a.", "_x.y", "\x00"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if !valid(name) {
			return
		}
		full, err := dnsmessage.NewName(name + ".")
		if err != nil {
			t.Fatal(err)
		}
		q := dnsmessage.Question{Name: full, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
		text, err := pack(1, q, true)
		if err != nil {
			t.Fatal(err)
		}
		text[2] |= 0x80 // as an answer
		if r, err := parse(text, 1, q); err != nil || len(r.Addrs) > 0 {
			t.Fatalf("%q: %v, %v", name, r.Addrs, err)
		}
	})
}
