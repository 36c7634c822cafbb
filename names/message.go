package names

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/names/ask"
)

const (
	// replyMax is how long an answer may be: without EDNS the C library reads no more (RFC 1035, section 4.2.1).
	replyMax = 512
	// addrsMax is how many addresses an answer has. The C library of glibc 2.36 asks again for a name that has more than 25, because its
	// first buffer is too small. tinyproxy tries one after the other, 4 s each.
	addrsMax = 16

	headerSize = 12
	optSize    = 11 // of a record OPT without options (RFC 6891, section 6.1.2)
)

// A query is a message of a proxy that makes sense.
type query struct {
	header   dnsmessage.Header
	question dnsmessage.Question
	edns     bool
}

// A sense is what a message means.
type sense int

const (
	malformed sense = iota // no query, or one that no resolver could answer
	strange                // a query that the C library does not make for a proxy
	reverse                // for the name of an address
	addresses              // for the addresses of a name
)

// parse reads a message. The C library makes no message that is longer than what it consists of, and compresses no question.
func parse(msg []byte) (q query, is sense) {
	var p dnsmessage.Parser
	var err error
	if q.header, err = p.Start(msg); err != nil || q.header.Response || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return q, malformed
	}
	if q.question, err = p.Question(); err != nil {
		return q, malformed
	}
	if q.header.OpCode != 0 || binary.BigEndian.Uint32(msg[6:]) != 0 { // it has answers, or authorities
		return q, strange
	}
	size := headerSize + len(q.name()) + 2 + 4
	if q.name() == "" { // the root
		size--
	}
	switch extra := binary.BigEndian.Uint16(msg[10:]); extra {
	case 0:
	case 1:
		if err := errors.Join(p.SkipAllQuestions(), p.SkipAllAnswers(), p.SkipAllAuthorities()); err != nil {
			return q, malformed
		}
		h, err := p.AdditionalHeader()
		if err != nil || p.SkipAdditional() != nil {
			return q, malformed
		}
		if h.Type != dnsmessage.TypeOPT {
			return q, strange
		}
		q.edns = true
		size += optSize + int(h.Length)
	default:
		return q, strange
	}
	switch {
	case size != len(msg):
		return q, malformed
	case q.question.Class != dnsmessage.ClassINET:
		return q, strange
	case q.question.Type == dnsmessage.TypePTR && below(ask.Lower(q.name()), "in-addr.arpa", "ip6.arpa"):
		return q, reverse
	case q.question.Type != dnsmessage.TypeA && q.question.Type != dnsmessage.TypeAAAA || q.name() == "":
		return q, strange
	}
	return q, addresses
}

// name returns what is asked for as it was written, without the period at its end.
func (q *query) name() string { return strings.TrimSuffix(q.question.Name.String(), ".") }

// below reports whether a name is in one of the domains.
func below(name string, domains ...string) bool {
	for _, domain := range domains {
		if rest, ok := strings.CutSuffix(name, domain); ok && strings.HasSuffix(rest, ".") {
			return true
		}
	}
	return false
}

// reply returns an answer: a code, and addresses of the family that was asked for; others are left out.
func (q *query) reply(code dnsmessage.RCode, addrs []netip.Addr, ttl time.Duration) ([]byte, error) {
	b := dnsmessage.NewBuilder(make([]byte, 0, replyMax), dnsmessage.Header{ID: q.header.ID, Response: true, OpCode: q.header.OpCode,
		RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true, RCode: code})
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q.question); err != nil {
		return nil, err
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	header := dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, TTL: uint32(ttl / time.Second)}
	for _, a := range addrs {
		var err error
		switch {
		case a.Is4() && q.question.Type == dnsmessage.TypeA:
			err = b.AResource(header, dnsmessage.AResource{A: a.As4()})
		case a.Is6() && q.question.Type == dnsmessage.TypeAAAA:
			err = b.AAAAResource(header, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	if q.edns {
		if err := b.StartAdditionals(); err != nil {
			return nil, err
		}
		var opt dnsmessage.ResourceHeader
		if err := opt.SetEDNS0(replyMax, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		if err := b.OPTResource(opt, dnsmessage.OPTResource{}); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// room returns how many addresses of its family an answer for a name has room for.
func room(name string, ipv6 bool) int {
	record := 16 // name, type, class, TTL and length take 12 bytes
	if ipv6 {
		record = 28
	}
	return max(0, min(addrsMax, (replyMax-headerSize-(len(name)+2+4)-optSize)/record))
}

// typeName returns how people write the type of a question (RFC 3597, section 5).
func typeName(t dnsmessage.Type) string {
	if name, known := strings.CutPrefix(t.String(), "Type"); known {
		return name
	}
	return fmt.Sprintf("TYPE%d", t)
}

// readable returns a name as people are shown it: other bytes than those of host names as \DDD (RFC 1035, section 5.1).
func readable(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if isHostByte(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\%03d`, c)
		}
	}
	return b.String()
}

func isHostByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
}
