package ask

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	payload = 1232           // bytes of an answer by UDP, so that no packet is a fragment (DNS flag day 2020)
	ttlMax  = time.Hour * 24 // of records that a server wants to be kept for longer

	badVersion = dnsmessage.RCode(16) // RFC 6891, 9
)

var (
	errOther     = errors.New("it answers another question")
	errMalformed = errors.New("its answer is malformed")
	errReferral  = errors.New("it does not ask other servers (no recursion)")
	errEndless   = errors.New("the aliases (CNAME) of the name do not end")
)

// pack returns a question as a message.
func pack(id uint16, q dnsmessage.Question, edns bool) ([]byte, error) {
	b := dnsmessage.NewBuilder(make([]byte, 0, 512), dnsmessage.Header{ID: id, RecursionDesired: true})
	b.StartQuestions() //nolint:errcheck // it is the first section
	if err := b.Question(q); err != nil {
		return nil, err
	}
	if edns {
		var h dnsmessage.ResourceHeader
		h.SetEDNS0(payload, dnsmessage.RCodeSuccess, false) //nolint:errcheck // it has no errors
		b.StartAdditionals()                                //nolint:errcheck // it is the last section
		if err := b.OPTResource(h, dnsmessage.OPTResource{}); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// A reply is a message that answers a question.
type reply struct {
	Answer
	rcode     dnsmessage.RCode
	truncated bool
	server    netip.AddrPort // which sent it
	alias     string         // the name that it leads to without saying its addresses, "" if it says all
	fault     error          // why nobody can believe it
}

// parse reads the reply to a question. The error is errOther if it is not about this question, so that anybody may have sent it, and
// errMalformed if nobody can read it.
func parse(message []byte, id uint16, q dnsmessage.Question) (r reply, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || h.ID != id || !h.Response || h.OpCode != 0 {
		return r, errOther
	}
	r.rcode, r.truncated = h.RCode, h.Truncated
	asked, err := p.AllQuestions()
	switch {
	case err == nil && len(asked) == 0 && h.RCode == dnsmessage.RCodeFormatError:
		return r, nil // as servers do that could not read the question
	case err != nil || len(asked) != 1 || asked[0].Type != q.Type || asked[0].Class != q.Class ||
		Lower(asked[0].Name.String()) != Lower(q.Name.String()):
		return r, errOther
	}
	chain, err := r.answers(&p, q)
	if r.rcode == dnsmessage.RCodeNameError {
		r.NoSuchName, r.Addrs = true, nil
	}
	if r.truncated { // it may end in the midst of a record; it is asked for again, by TCP
		return r, nil
	}
	if err != nil {
		return r, errMalformed
	}
	said, err := r.authority(&p)
	if err != nil {
		return r, errMalformed
	}
	r.extended(&p)
	switch {
	case len(r.Addrs) > 0 || said:
	case len(chain) > 0 && !r.NoSuchName:
		r.alias = strings.TrimSuffix(chain[len(chain)-1], ".")
	default:
		r.TTL = 0
		if !r.NoSuchName && !h.Authoritative && !h.RecursionAvailable {
			r.fault = errReferral
		}
	}
	return r, nil
}

// answers reads the section of answers: the addresses, and the names that led to them, beginning with the first alias.
func (r *reply) answers(p *dnsmessage.Parser, q dnsmessage.Question) (chain []string, err error) {
	type record struct {
		owner, alias string
		addr         netip.Addr
		ttl          time.Duration
	}
	var all []record
	for {
		h, headerErr := p.AnswerHeader()
		if headerErr != nil {
			if !errors.Is(headerErr, dnsmessage.ErrSectionDone) {
				err = headerErr
			}
			break
		}
		is := record{owner: Lower(h.Name.String()), ttl: ttl(h.TTL)}
		switch {
		case h.Class != dnsmessage.ClassINET:
			err = p.SkipAnswer()
		case h.Type == dnsmessage.TypeCNAME:
			var body dnsmessage.CNAMEResource
			body, err = p.CNAMEResource()
			is.alias = Lower(body.CNAME.String())
		case h.Type == q.Type && h.Type == dnsmessage.TypeA && h.Length == 4:
			var body dnsmessage.AResource
			body, err = p.AResource()
			is.addr = netip.AddrFrom4(body.A)
		case h.Type == q.Type && h.Type == dnsmessage.TypeAAAA && h.Length == 16:
			var body dnsmessage.AAAAResource
			body, err = p.AAAAResource()
			// An address of IPv4 in one of IPv6 is no address of a host (RFC 4942, 2.2), and a socket would connect by IPv4.
			if addr := netip.AddrFrom16(body.AAAA); !addr.Is4In6() {
				is.addr = addr
			}
		default:
			err = p.SkipAnswer()
		}
		if err != nil {
			break
		}
		if is.alias != "" || is.addr.IsValid() {
			all = append(all, is)
		}
	}

	r.TTL = ttlMax
	owner := Lower(q.Name.String())
	for {
		i := slices.IndexFunc(all, func(is record) bool { return is.alias != "" && is.owner == owner })
		if i < 0 {
			break
		}
		owner = all[i].alias
		r.TTL = min(r.TTL, all[i].ttl)
		if chain = append(chain, owner); len(chain) > chainMax {
			r.fault = errEndless
			return chain, err
		}
	}
	for _, is := range all {
		if is.addr.IsValid() && is.owner == owner && len(r.Addrs) < AddrsMax && !slices.Contains(r.Addrs, is.addr) {
			r.Addrs = append(r.Addrs, is.addr)
			r.TTL = min(r.TTL, is.ttl)
		}
	}
	return chain, err
}

// authority reads for how long a negative answer may be kept (RFC 2308, 5), if the server says so.
func (r *reply) authority(p *dnsmessage.Parser) (said bool, err error) {
	for {
		h, err := p.AuthorityHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return said, nil
		}
		if err != nil {
			return said, err
		}
		if h.Type != dnsmessage.TypeSOA || h.Class != dnsmessage.ClassINET {
			if err := p.SkipAuthority(); err != nil {
				return said, err
			}
			continue
		}
		soa, err := p.SOAResource()
		if err != nil {
			return said, err
		}
		if said = true; len(r.Addrs) == 0 {
			r.TTL = min(r.TTL, ttl(h.TTL), ttl(soa.MinTTL))
		}
	}
}

// extended reads the upper bits of the result code, which are in the last section.
func (r *reply) extended(p *dnsmessage.Parser) {
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return
		}
		if h.Type == dnsmessage.TypeOPT {
			r.rcode = h.ExtendedRCode(r.rcode)
		}
		if p.SkipAdditional() != nil {
			return
		}
	}
}

// ttl returns the time of a record, which is 0 if its highest bit is set (RFC 2181, 8).
func ttl(seconds uint32) time.Duration {
	if seconds>>31 != 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, ttlMax)
}
