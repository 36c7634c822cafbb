package firewall

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ForwardReader reads the chains of hook forward: those of nftables, which are also those of iptables-nft, and of
// iptables-legacy where it is in use. It may be used from several goroutines.
type ForwardReader struct {
	mu         sync.Mutex // of a Read; stale is without
	conn       *ruleset
	generation uint32 // of the ruleset that chains are of
	chains     []*forwardChain
	links      []link
	looked     time.Time   // at links
	stale      atomic.Bool // links
}

// linksStay is how long links are believed if nobody says that they have changed.
const linksStay = 30 * time.Second

// LinksChanged has the next Read look at the links again. It may be called from anywhere.
func (r *ForwardReader) LinksChanged() { r.stale.Store(true) }

// readLinks reads them if they may have changed: that takes as long as there are AppVMs, whose vifs come and go without it.
func (r *ForwardReader) readLinks() error {
	if !r.stale.Swap(false) && time.Since(r.looked) < linksStay {
		return nil
	}
	list, err := netlink.LinkList()
	if err != nil {
		r.stale.Store(true)
		return fmt.Errorf("read the links that chains of hook forward are about: %w", err)
	}
	r.links, r.looked = nil, time.Now()
	for _, l := range list {
		a := l.Attrs()
		r.links = append(r.links, link{a.Name, l.Type(), uint32(a.Index), a.Group})
	}
	return nil
}

// Read returns what they say now. Rules are read again only if the ruleset has changed, and
// links if LinksChanged was called, or after 30 s.
func (r *ForwardReader) Read(ctx context.Context) (Forward, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.readLinks()
	if err != nil {
		return Forward{}, err
	}
	if r.conn == nil {
		if r.conn, err = dial(); err != nil {
			return Forward{}, fmt.Errorf("read chains of hook forward: %w", err)
		}
	}
	if err = r.readChains(); err != nil {
		_ = r.conn.socket.Close() // answers may be under way
		r.conn, r.chains = nil, nil
		if !unsupported(err) {
			return Forward{}, fmt.Errorf("read chains of hook forward: %w", err)
		}
	}
	legacy, unread, err := legacyForward(ctx)
	if err != nil {
		return Forward{}, fmt.Errorf("read chain FORWARD of iptables-legacy: %w", err)
	}
	f := judgeAll(slices.Concat(r.chains, legacy), r.links)
	f.Unread = unread
	return f, nil
}

func (r *ForwardReader) readChains() error {
	for range attempts {
		generation, err := r.conn.generation()
		if err != nil {
			return err
		}
		if r.chains != nil && r.generation == generation {
			return nil
		}
		chains, err := r.conn.forwardChains()
		after, err2 := r.conn.generation()
		switch {
		case err2 != nil:
			return err2
		case after != generation:
			continue // whatever err says, something may only have vanished
		case err != nil:
			return err
		}
		r.chains, r.generation = chains, generation
		return nil
	}
	return errBusy
}

// forwardChains are all chains of the tables that have a chain of hook forward, as far as chainsAt reads them.
func (r *ruleset) forwardChains() ([]*forwardChain, error) {
	return r.chainsAt(func(kind string, hook uint32) bool { return kind == "filter" && hook == unix.NF_INET_FORWARD })
}

// chainsAt are all chains of the tables that have a base chain of a kind and a hook that are asked for, with the rules of those
// that a packet may come to from there.
func (r *ruleset) chainsAt(is func(kind string, hook uint32) bool) (all []*forwardChain, err error) {
	all = []*forwardChain{}
	list, err := r.dump(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, "")
	if err != nil {
		return nil, err
	}
	type table struct {
		family byte
		name   string
	}
	tables := make(map[table]map[string]*forwardChain)
	var order []table
	for _, o := range list {
		t := table{o[0][0], o.text(unix.NFTA_CHAIN_TABLE)}
		hook := inside(o[unix.NFTA_CHAIN_HOOK], unix.NFTA_HOOK_HOOKNUM)
		families, ok := map[byte][]bool{
			unix.NFPROTO_IPV4: {false}, unix.NFPROTO_IPV6: {true}, unix.NFPROTO_INET: {false, true},
		}[t.family]
		if !ok {
			continue
		}
		if tables[t] == nil {
			tables[t] = make(map[string]*forwardChain)
			order = append(order, t)
		}
		name := o.text(unix.NFTA_CHAIN_NAME)
		c := &forwardChain{place: fmt.Sprintf("table %s, chain %s", tableName(t.family, t.name), name), families: families, table: tables[t]}
		kind := o.text(unix.NFTA_CHAIN_TYPE)
		c.tableName = tableName(t.family, t.name)
		if len(hook) == 4 {
			c.number = binary.BigEndian.Uint32(hook)
			c.hook = is(kind, c.number)
		}
		if priority := inside(o[unix.NFTA_CHAIN_HOOK], unix.NFTA_HOOK_PRIORITY); len(priority) == 4 {
			c.priority = int32(binary.BigEndian.Uint32(priority))
		}
		c.policy = accepted
		if o.number(unix.NFTA_CHAIN_POLICY) == 0 && o[unix.NFTA_CHAIN_POLICY] != nil { // NF_DROP
			c.policy = dropped
		}
		tables[t][name] = c
		all = append(all, c)
	}
	for _, t := range order {
		if !slices.ContainsFunc(all, func(c *forwardChain) bool { return c.hook && tables[t][lastWord(c.place)] == c }) {
			continue
		}
		sets, err := r.dump(unix.NFT_MSG_GETSET, t.family, t.name)
		if err != nil {
			return nil, fmt.Errorf("sets of table %s: %w", tableName(t.family, t.name), err)
		}
		intervals := make(map[string]bool)
		for _, o := range sets {
			intervals[o.text(unix.NFTA_SET_NAME)] = o.number(unix.NFTA_SET_FLAGS)&unix.NFT_SET_INTERVAL != 0
		}
		if err := r.readReached(t.family, t.name, tables[t], intervals); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// readReached reads the rules of a table's chains of hook forward, and of those to which they lead. What the others ask for
// may be as long as there are AppVMs, such as Qubes' set of the addresses that they may send from.
func (r *ruleset) readReached(family byte, table string, chains map[string]*forwardChain, intervals map[string]bool) error {
	var next []string
	for _, name := range slices.Sorted(maps.Keys(chains)) {
		if chains[name].hook {
			next = append(next, name)
		}
	}
	read := map[string]bool{}
	for len(next) > 0 {
		name := next[0]
		next = next[1:]
		c := chains[name]
		if c == nil || read[name] {
			continue
		}
		read[name] = true
		rules, err := r.rulesOf(family, table, name)
		if err != nil {
			return fmt.Errorf("rules of table %s, chain %s: %w", tableName(family, table), name, err)
		}
		for i, o := range rules {
			d := decoder{ruleset: r, chain: c, family: family, table: table, intervals: intervals,
				place: place("table "+tableName(family, table), name, i+1)}
			if err := d.rule(o[unix.NFTA_RULE_EXPRESSIONS]); err != nil {
				return fmt.Errorf("%s: %w", d.place, err)
			}
		}
		for _, rule := range c.rules {
			if rule.to != "" {
				next = append(next, rule.to)
			}
		}
	}
	return nil
}

func lastWord(text string) string { return text[strings.LastIndexByte(text, ' ')+1:] }

func tableName(family byte, name string) string {
	return map[byte]string{unix.NFPROTO_IPV4: "ip ", unix.NFPROTO_IPV6: "ip6 ", unix.NFPROTO_INET: "inet "}[family] + name
}

// field is what a register holds.
type register int

const (
	other register = iota
	outName
	outIndex
	outGroup
	outKind
	outOther // something else about that interface
	inName
	inIndexOf
	inGroupOf
	ctState
	ipVersion
	etherType
	l4Protocol
	source
	destination
	destinationPort
	destinationType
	mark // of the packet, or its connection
	socketUID
)

func (f register) byOut() bool { return outName <= f && f <= outOther }

// content is a register: a field, and the bits of it that are left.
type content struct {
	register
	mask []byte // nil: all
}

// match asks something of the field.
func (c content) match(of func(asked) answer) match {
	return match{byOut: c.byOut(), byMark: c.register == mark, of: of}
}

// decoder makes forwardRules of the expressions of one rule.
type decoder struct {
	*ruleset
	chain     *forwardChain
	family    byte
	table     string
	place     string
	intervals map[string]bool // which sets are of intervals
	registers [20]content     // in units of 4 bytes
	matches   []match
	admits    bool // it is the rule that vifproxyd keeps in the chain INPUT of iptables: it concerns each AppVM that has a proxy
}

// unit is the place of a register: NFT_REG_1 to NFT_REG_4 have 16 bytes, those from NFT_REG32_00 (8) on have 4.
func unit(register uint32) int {
	switch {
	case register >= 8 && register < 28:
		return int(register) - 8
	case register >= 1 && register <= 4:
		return int(register-1) * 4
	}
	return 0
}

func (d *decoder) add(v ending, to string, more ...match) {
	matches := slices.Concat(d.matches, more)
	if d.admits {
		matches = nil
	}
	d.chain.rules = append(d.chain.rules, forwardRule{place: d.place, matches: matches, ending: v, to: to})
}

// marks notes that the rule sets a mark.
func (d *decoder) marks() {
	d.chain.rules = append(d.chain.rules, forwardRule{place: d.place, matches: slices.Clone(d.matches), marks: true})
}

// forget follows an expression that is not known: it may have written to any register.
func (d *decoder) forget() {
	for i, c := range d.registers {
		d.registers[i] = content{register: outOr(c.register)}
	}
}

// rule reads a rule's expressions in their order (nf_tables.h: enum nft_*_attributes). What is not known may match or not.
func (d *decoder) rule(list []byte) error {
	for _, element := range attributes(list) {
		name := string(bytes.TrimSuffix(inside(element, unix.NFTA_EXPR_NAME), []byte{0}))
		data := inside(element, unix.NFTA_EXPR_DATA)
		attr := func(n uint16) []byte { return inside(data, n) }
		number := func(n uint16) uint32 {
			if b := attr(n); len(b) == 4 {
				return binary.BigEndian.Uint32(b)
			}
			return 0
		}
		put := func(register uint32, f register) { d.registers[unit(register)] = content{register: f} }
		switch name {
		case "meta":
			if attr(unix.NFTA_META_DREG) != nil {
				put(number(unix.NFTA_META_DREG), metaField(number(unix.NFTA_META_KEY)))
			} else if number(unix.NFTA_META_KEY) == unix.NFT_META_MARK {
				d.marks()
			}
		case "ct":
			if attr(unix.NFTA_CT_DREG) != nil {
				f := other
				switch number(unix.NFTA_CT_KEY) {
				case unix.NFT_CT_STATE:
					f = ctState
				case unix.NFT_CT_MARK:
					f = mark
				}
				put(number(unix.NFTA_CT_DREG), f)
			} else if number(unix.NFTA_CT_KEY) == unix.NFT_CT_MARK {
				d.marks()
			}
		case "payload":
			if attr(unix.NFTA_PAYLOAD_DREG) != nil {
				put(number(unix.NFTA_PAYLOAD_DREG), payloadField(number(unix.NFTA_PAYLOAD_BASE),
					number(unix.NFTA_PAYLOAD_OFFSET), number(unix.NFTA_PAYLOAD_LEN)))
			}
		case "fib":
			f := other
			const toDestination = unix.NFTA_FIB_F_DADDR
			if flags := number(unix.NFTA_FIB_FLAGS); flags&^unix.NFTA_FIB_F_MARK == toDestination {
				f = map[uint32]register{unix.NFT_FIB_RESULT_ADDRTYPE: destinationType,
					unix.NFT_FIB_RESULT_OIF: outIndex, unix.NFT_FIB_RESULT_OIFNAME: outName}[number(unix.NFTA_FIB_RESULT)]
			}
			put(number(unix.NFTA_FIB_DREG), f)
		case "bitwise":
			c := d.registers[unit(number(unix.NFTA_BITWISE_SREG))]
			mask, xor := inside(data, unix.NFTA_BITWISE_MASK, unix.NFTA_DATA_VALUE), inside(data, unix.NFTA_BITWISE_XOR, unix.NFTA_DATA_VALUE)
			if c.mask != nil || mask == nil || !zero(xor) {
				c = content{register: outOr(c.register)}
			} else {
				c.mask = mask
			}
			d.registers[unit(number(unix.NFTA_BITWISE_DREG))] = c
		case "cmp":
			c := d.registers[unit(number(unix.NFTA_CMP_SREG))]
			d.matches = append(d.matches, d.compare(c, number(unix.NFTA_CMP_OP), inside(data, unix.NFTA_CMP_DATA, unix.NFTA_DATA_VALUE)))
		case "range":
			c := d.registers[unit(number(unix.NFTA_RANGE_SREG))]
			m := d.between(c, inside(data, unix.NFTA_RANGE_FROM_DATA, unix.NFTA_DATA_VALUE), inside(data, unix.NFTA_RANGE_TO_DATA, unix.NFTA_DATA_VALUE))
			if number(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ {
				m = m.inverted()
			}
			d.matches = append(d.matches, m)
		case "lookup":
			if err := d.lookup(data, attr(unix.NFTA_LOOKUP_DREG) != nil && number(unix.NFTA_LOOKUP_DREG) == unix.NFT_REG_VERDICT,
				number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0); err != nil {
				return err
			}
			if attr(unix.NFTA_LOOKUP_DREG) != nil {
				put(number(unix.NFTA_LOOKUP_DREG), outOr(d.registers[unit(number(unix.NFTA_LOOKUP_SREG))].register))
			}
		case "immediate":
			if v := inside(data, unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT); v != nil {
				d.add(endingOf(v))
			} else {
				put(number(unix.NFTA_IMMEDIATE_DREG), other)
			}
		case "reject":
			d.add(dropped, "")
		case "target": // of xtables
			switch string(bytes.TrimRight(attr(unix.NFTA_TARGET_NAME), "\x00")) {
			case "REJECT", "DROP", "TARPIT":
				d.add(dropped, "")
			case "MARK", "CONNMARK":
				d.marks()
			}
		case "match":
			info := attr(unix.NFTA_MATCH_INFO)
			d.admits = d.admits || unix.ByteSliceToString(info) == admissionComment
			d.matches = append(d.matches, xtMatch(string(bytes.TrimRight(attr(unix.NFTA_MATCH_NAME), "\x00")), info))
		case "limit", "connlimit": // what is over the limit is nothing usual
			flags := map[string]uint16{"limit": unix.NFTA_LIMIT_FLAGS, "connlimit": nftaConnlimitFlags}[name]
			a := maybe
			if number(flags)&1 != 0 { // NFT_LIMIT_F_INV, NFT_CONNLIMIT_F_INV
				a = never
			}
			d.matches = append(d.matches, constant(a))
		case "counter", "log", "last", "notrack", "objref", "flow_offload", "masq", "nat", "redir":
		case "byteorder", "hash", "numgen", "rt", "exthdr", "socket", "osf", "tunnel", "xfrm": // they fill a register
			d.forget()
		default:
			d.forget()
			d.matches = append(d.matches, constant(maybe))
		}
	}
	return nil
}

const nftaConnlimitFlags = 2 // NFTA_CONNLIMIT_FLAGS

func metaField(key uint32) register {
	switch key {
	case unix.NFT_META_OIFNAME:
		return outName
	case unix.NFT_META_OIF:
		return outIndex
	case unix.NFT_META_OIFGROUP:
		return outGroup
	case nftMetaOIFKind:
		return outKind
	case unix.NFT_META_OIFTYPE:
		return outOther
	case unix.NFT_META_IIFNAME:
		return inName
	case unix.NFT_META_IIF:
		return inIndexOf
	case unix.NFT_META_IIFGROUP:
		return inGroupOf
	case unix.NFT_META_NFPROTO:
		return ipVersion
	case unix.NFT_META_PROTOCOL:
		return etherType
	case unix.NFT_META_L4PROTO:
		return l4Protocol
	case unix.NFT_META_MARK:
		return mark
	case unix.NFT_META_SKUID:
		return socketUID
	}
	return other
}

const nftMetaOIFKind = 27 // NFT_META_OIFKIND

// payloadField reads places in the headers of IPv4 and IPv6; nft asks for the version before.
func payloadField(base, offset, length uint32) register {
	switch base {
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		switch [2]uint32{offset, length} {
		case [2]uint32{9, 1}, [2]uint32{6, 1}:
			return l4Protocol
		case [2]uint32{12, 4}, [2]uint32{8, 16}:
			return source
		case [2]uint32{16, 4}, [2]uint32{24, 16}:
			return destination
		}
		if offset == 16 && length < 4 || offset == 24 && length < 16 { // a network of whole bytes
			return destination
		}
		if offset == 12 && length < 4 || offset == 8 && length < 16 {
			return source
		}
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		if offset == 2 && length == 2 {
			return destinationPort
		}
	}
	return other
}

// xtMatch reads a match of iptables, as its own structures have it.
func xtMatch(name string, info []byte) match {
	number := binary.NativeEndian.Uint32
	short := func(at int) uint32 { return uint32(binary.NativeEndian.Uint16(info[at:])) }
	switch {
	case name == "comment":
		return constant(always)
	case name == "mark", name == "connmark":
		return match{byMark: true, of: func(asked) answer { return maybe }}
	case name == "devgroup" && len(info) >= 20 && number(info)&4 != 0: // XT_DEVGROUP_MATCH_DST
		invert, group, mask := number(info)&8 != 0, number(info[12:]), number(info[16:])
		return match{byOut: true, of: func(q asked) answer {
			return whether(((q.out.group^group)&mask == 0) != invert)
		}}
	case name == "conntrack" && len(info) >= 152 && short(146) == 1: // xt_conntrack_mtinfo3, XT_CONNTRACK_STATE alone
		m := match{of: state(short(150))}
		if short(148) != 0 {
			m = m.inverted()
		}
		return m
	}
	return constant(maybe)
}

// outOr is what is left of a field that was calculated with.
func outOr(f register) register {
	switch {
	case f.byOut():
		return outOther
	case f == mark:
		return mark
	}
	return other
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func endingOf(v []byte) (ending, string) {
	to := string(bytes.TrimSuffix(inside(v, unix.NFTA_VERDICT_CHAIN), []byte{0}))
	code := inside(v, unix.NFTA_VERDICT_CODE)
	if len(code) != 4 {
		return unsure, ""
	}
	switch int32(binary.BigEndian.Uint32(code)) {
	case unix.NFT_JUMP:
		return jumps, to
	case unix.NFT_GOTO:
		return leaps, to
	case unix.NFT_RETURN:
		return returns, ""
	case unix.NFT_CONTINUE:
		return goOn, ""
	case 0: // NF_DROP
		return dropped, ""
	case 1: // NF_ACCEPT
		return accepted, ""
	}
	return unsure, "" // NF_QUEUE
}

// compare is the match of a field with a value.
func (d *decoder) compare(c content, op uint32, value []byte) match {
	if op != unix.NFT_CMP_EQ && op != unix.NFT_CMP_NEQ {
		return c.match(func(q asked) answer {
			if q.packet != nil {
				return q.packet.compare(c, op, value)
			}
			return maybe
		})
	}
	m := c.exactly(d.equals(c, value), value, value)
	if op == unix.NFT_CMP_NEQ {
		m = m.inverted()
	}
	return m
}

// nameOf is a name as a rule has it: without a NUL at its end it is all names that begin so.
func nameOf(value []byte) linkName {
	text, _, whole := bytes.Cut(value, []byte{0})
	return linkName{string(text), !whole && len(value) < ifNameSize}
}

// equals tells whether a field has a value.
func (d *decoder) equals(c content, value []byte) func(asked) answer {
	number := uint32(0)
	if len(value) == 4 {
		number = binary.NativeEndian.Uint32(value)
	}
	said := func(a answer) func(asked) answer { return func(asked) answer { return a } }
	switch {
	case c.register == destination:
		network := value
		if c.mask != nil {
			network = c.mask
			if len(c.mask) > 0 && c.mask[0] != 0xff { // wider than any private network
				return said(maybe)
			}
		}
		if len(network) == 0 {
			return said(maybe)
		}
		return said(never)
	case c.register == ctState && c.mask != nil && len(c.mask) == 4 && number == 0: // none of these states
		return match{of: state(binary.NativeEndian.Uint32(c.mask))}.inverted().of
	case c.mask != nil:
		return said(maybe)
	}
	switch c.register {
	case outName:
		name := nameOf(value)
		if !name.prefix {
			d.chain.out = append(d.chain.out, name.name)
		}
		return name.out
	case outIndex:
		return func(q asked) answer { return whether(q.out.index == number && number != 0) }
	case outGroup:
		return func(q asked) answer { return whether(q.out.group == number) }
	case inName:
		return nameOf(value).in
	case inIndexOf:
		return inIndex(number)
	case inGroupOf:
		return inGroup(number)
	case outKind:
		return func(q asked) answer {
			if q.out.index == 0 {
				return maybe
			}
			return whether(q.out.kind == string(bytes.TrimRight(value, "\x00")))
		}
	case ctState:
		return state(number)
	case ipVersion:
		return func(q asked) answer { return whether(len(value) == 1 && (value[0] == unix.NFPROTO_IPV6) == q.six) }
	case etherType:
		return func(q asked) answer { return whether(bytes.Equal(value, []byte{0x86, 0xdd}) == q.six) }
	case l4Protocol:
		if len(value) == 1 {
			return said(protocol(value[0]))
		}
	case destinationPort:
		if len(value) == 2 {
			port := binary.BigEndian.Uint16(value)
			return said(ports(port, port))
		}
	case destinationType:
		return said(whether(number == unix.RTN_UNICAST))
	}
	return said(maybe)
}

// between tells whether a field has a value in a range.
func (d *decoder) between(c content, from, to []byte) match {
	return c.exactly(d.within(c, from, to).of, from, to)
}

// exactly is a match that compares values if all is known of the packet.
func (c content) exactly(of func(asked) answer, from, to []byte) match {
	return c.match(func(q asked) answer {
		if q.packet != nil {
			return q.packet.between(c, from, to)
		}
		return of(q)
	})
}

func (d *decoder) within(c content, from, to []byte) match {
	said := func(a answer) match { return c.match(func(asked) answer { return a }) }
	switch {
	case c.mask != nil || len(from) == 0 || len(from) != len(to):
	case c.register == destination && from[0] == to[0]: // within one network of 8 bits
		return said(never)
	case c.register == destinationPort && len(from) == 2:
		return said(ports(binary.BigEndian.Uint16(from), binary.BigEndian.Uint16(to)))
	case c.register == outGroup && len(from) == 4:
		first, last := binary.BigEndian.Uint32(from), binary.BigEndian.Uint32(to)
		return c.match(func(q asked) answer { return whether(first <= q.out.group && q.out.group <= last) })
	case c.register == outName: // "eth*" in a set: its bytes from "eth" on, and all that follows
		return c.match(func(q asked) answer {
			var name [ifNameSize]byte
			copy(name[:], q.out.name)
			return whether(bytes.Compare(from, name[:]) <= 0 && bytes.Compare(name[:], to) <= 0)
		})
	}
	return said(maybe)
}

// entry is an element of a set: a key, or keys between two, and what a verdict map has for it.
type entry struct {
	from, to []byte // equal for a single key; nil: all keys
	ending   []byte
}

// mostEntries is how many elements of a set are looked at: lists of addresses have hundreds of thousands, and rules are read
// again after each change of any.
const mostEntries = 4096

// entries reads a set, or its first elements if it has too many. Of sets of intervals that are no ranges in themselves
// (pipapo), elements are where one begins and where it has ended.
func (d *decoder) entries(set string) (all []entry, whole bool, err error) {
	attrs := name(name(nil, unix.NFTA_SET_ELEM_LIST_TABLE, d.table), unix.NFTA_SET_ELEM_LIST_SET, set)
	count := 0
	lists, whole, err := d.askUntil(message(unix.NFT_MSG_GETSETELEM, d.family, unix.NLM_F_DUMP, attrs), func(o object) bool {
		for range attributes(o[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
			count++
		}
		return count > mostEntries
	})
	if err == nil && !whole {
		err = d.redial()
	}
	if err != nil {
		return nil, false, fmt.Errorf("elements of set %s: %w", set, err)
	}
	type edge struct {
		entry
		end bool
	}
	var edges []edge
	intervals := d.intervals[set]
	for _, list := range lists {
		for _, e := range attributes(list[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
			flags := inside(e, unix.NFTA_SET_ELEM_FLAGS)
			end := len(flags) == 4 && binary.BigEndian.Uint32(flags)&unix.NFT_SET_ELEM_INTERVAL_END != 0
			key := inside(e, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)
			to := inside(e, nftaSetElemKeyEnd, unix.NFTA_DATA_VALUE)
			if to == nil {
				to = key
			} else {
				intervals = false // they are ranges in themselves
			}
			edges = append(edges, edge{entry{key, to, inside(e, unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VERDICT)}, end})
		}
	}
	if !intervals {
		for _, e := range edges {
			all = append(all, e.entry)
		}
		return all, whole, nil
	}
	slices.SortStableFunc(edges, func(a, b edge) int { return bytes.Compare(a.from, b.from) })
	for i, e := range edges {
		if e.end || e.from == nil {
			if e.from == nil {
				all = append(all, e.entry)
			}
			continue
		}
		e.to = bytes.Repeat([]byte{0xff}, len(e.from))
		if i+1 < len(edges) {
			e.to = before(edges[i+1].from)
		}
		all = append(all, e.entry)
	}
	return all, whole, nil
}

// before is the number before, in network order.
func before(b []byte) []byte {
	b = slices.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]--; b[i] != 0xff {
			break
		}
	}
	return b
}

// sizes of fields in a key of several, in units of 4 bytes.
func (d *decoder) units(f register) int {
	switch f {
	case outName, inName, outKind:
		return ifNameSize / 4
	case source, destination:
		if d.family == unix.NFPROTO_IPV6 {
			return 4
		}
	}
	return 1
}

// lookup reads a question for a set, or for a map of verdicts.
func (d *decoder) lookup(data []byte, verdicts, inverted bool) error {
	register := inside(data, unix.NFTA_LOOKUP_SREG)
	if len(register) != 4 {
		return nil
	}
	first := unit(binary.BigEndian.Uint32(register))
	entries, whole, err := d.entries(string(bytes.TrimSuffix(inside(data, unix.NFTA_LOOKUP_SET), []byte{0})))
	if err != nil {
		return err
	}
	var all match // what any of its elements is about
	if first < len(d.registers) {
		all = d.registers[first].match(nil)
	}
	var keys []func(asked) answer
	for _, e := range entries {
		m := d.key(first, e)
		all.byOut, all.byMark = all.byOut || m.byOut, all.byMark || m.byMark
		keys = append(keys, m.of)
		if verdicts {
			v, to := unsure, ""
			if e.ending != nil {
				v, to = endingOf(e.ending)
			}
			d.add(v, to, m)
		}
	}
	all.of = func(q asked) answer {
		best := never
		if !whole {
			best = maybe
		}
		for _, key := range keys {
			best = max(best, key(q))
		}
		return best
	}
	switch {
	case verdicts && !whole:
		d.add(dropped, "", match{byOut: all.byOut, byMark: all.byMark, of: func(asked) answer { return maybe }})
	case verdicts:
	case inverted:
		d.matches = append(d.matches, all.inverted())
	default:
		d.matches = append(d.matches, all)
	}
	return nil
}

// key is whether a packet is what an element of a set is about. A key of several fields has each in whole units of 4 bytes.
func (d *decoder) key(first int, e entry) match {
	if e.from == nil {
		return constant(always)
	}
	var whole match
	all := []match{}
	for at := 0; at < len(e.from); {
		c := content{}
		if i := first + at/4; i < len(d.registers) {
			c = d.registers[i]
		}
		size := min(4*d.units(c.register), len(e.from)-at)
		if at == 0 && len(e.from) <= 4*d.units(c.register) || c.register == destination && at+16 <= len(e.from) && len(e.from) == 16 {
			size = len(e.from)
		}
		from, to := e.from[at:at+size], e.to[at:at+size]
		if c.register == destinationPort && size == 4 {
			from, to = from[:2], to[:2]
		} else if (c.register == l4Protocol || c.register == ipVersion) && size == 4 {
			from, to = from[:1], to[:1]
		}
		m := d.between(c, from, to)
		if bytes.Equal(from, to) {
			m = c.exactly(d.equals(c, from), from, from)
		}
		whole.byOut, whole.byMark = whole.byOut || m.byOut, whole.byMark || m.byMark
		all = append(all, m)
		at += size
	}
	whole.of = func(q asked) answer {
		a := always
		for _, m := range all {
			a = min(a, m.of(q))
		}
		return a
	}
	return whole
}
