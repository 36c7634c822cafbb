package forward

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/firewall/ruleset"
)

// A Packet begins a connection, as rules see it.
type Packet struct {
	In       string // the interface by which it comes; "" if it is this VM's own
	Out      string // the interface by which it leaves; "" if it is for this VM
	From, To netip.Addr
	Protocol byte
	Port     uint16 // its destination's
	UID      uint32 // of the socket that it is from, if it is this VM's own

	Untracked bool // connection tracking has been told to leave it alone
}

// An Obstacle is a rule, or the policy, of another program's chain that drops a packet.
type Obstacle struct {
	Rule    string // such as "table inet other, chain out, rule 1 (hook output)"
	Certain bool   // it does; otherwise it may, because part of what it asks for is not known here
}

// Obstacles are the chains of other programs, without those of iptables-legacy.
type Obstacles struct {
	chains []*chain
	links  []link
}

// ReadObstacles reads all chains of nftables, which are also those of iptables-nft, that see packets from or for this VM. A kernel
// without nftables has none.
func ReadObstacles() (o Obstacles, err error) {
	r := Reader{}
	if err := r.readLinks(); err != nil {
		return o, err
	}
	conn, err := ruleset.Dial()
	if err != nil {
		return o, fmt.Errorf("read chains of other programs: %w", err)
	}
	defer conn.Close()
	o.chains, err = chainsAt(conn, func(number uint32) bool { return number != unix.NF_INET_FORWARD }, false)
	if err != nil && !ruleset.Unsupported(err) {
		return o, fmt.Errorf("read chains of other programs: %w", err)
	}
	o.links = r.links
	return o, nil
}

// Leaving returns what may drop a packet of this VM's own: the first obstacle of each chain of hooks output and postrouting.
func (o Obstacles) Leaving(p Packet) []Obstacle {
	return o.of(p, func(c *chain) bool {
		return c.number == unix.NF_INET_LOCAL_OUT || c.number == unix.NF_INET_POST_ROUTING
	})
}

// Arriving returns what may drop a packet of an AppVM to its proxy, which has the port to after nat has seen it: the first obstacle of
// each chain of hooks prerouting and input.
func (o Obstacles) Arriving(p Packet, to uint16) []Obstacle {
	translated := p
	translated.Port = to
	return slices.Concat(
		o.of(p, func(c *chain) bool { return c.number == unix.NF_INET_PRE_ROUTING && c.priority < firewall.NatPriority }),
		o.of(translated, func(c *chain) bool { return c.number == unix.NF_INET_PRE_ROUTING && c.priority > firewall.NatPriority }),
		o.of(translated, func(c *chain) bool { return c.number == unix.NF_INET_LOCAL_IN }))
}

func (o Obstacles) of(p Packet, is func(*chain) bool) (all []Obstacle) {
	q := asked{fresh: true, out: o.link(p.Out), packet: &packet{Packet: p, in: o.link(p.In), out: o.link(p.Out)}}
	for _, c := range o.chains {
		if !c.hook || !is(c) || slices.Equal(c.families, []bool{true}) {
			continue
		}
		t := &tracer{asked: q}
		switch end, certain := t.chain(c, 0); {
		case end == dropped && certain:
			t.obstacle.Certain = !t.perhaps
		case t.obstacle.Rule != "":
		case end == returns && c.policy == dropped:
			t.obstacle = Obstacle{c.place + ", its policy", !t.perhaps}
		}
		if t.obstacle.Rule != "" {
			t.obstacle.Rule += " (hook " + hookNames[c.number] + ")"
			all = append(all, t.obstacle)
		}
	}
	return all
}

func (o Obstacles) link(name string) link {
	if i := slices.IndexFunc(o.links, func(l link) bool { return l.name == name }); i >= 0 && name != "" {
		return o.links[i]
	}
	return link{name: name}
}

var hookNames = map[uint32]string{unix.NF_INET_PRE_ROUTING: "prerouting", unix.NF_INET_LOCAL_IN: "input",
	unix.NF_INET_LOCAL_OUT: "output", unix.NF_INET_POST_ROUTING: "postrouting"}

// A tracer follows one packet through the chains of a table.
type tracer struct {
	asked
	steps    int
	perhaps  bool     // it may have been accepted before
	obstacle Obstacle // the first rule that drops it, or may
}

// chain returns how a packet leaves a chain, if that is certain; otherwise that it returns.
func (t *tracer) chain(c *chain, depth int) (end ending, certain bool) {
	if depth > jumpsMax {
		return returns, true
	}
	for _, r := range c.rules {
		if t.steps++; t.steps > stepsMax {
			return returns, false
		}
		matches := always
		for _, m := range r.matches {
			matches = min(matches, m.of(t.asked))
		}
		if matches == never {
			continue
		}
		certain := matches == always
		end := r.ending
		if end == jumps || end == leaps {
			next := c.table[r.to]
			if next == nil {
				continue
			}
			inner, sure := t.chain(next, depth+1)
			if inner == returns && end == jumps {
				continue
			}
			end, certain = inner, certain && sure
		}
		switch end {
		case dropped:
			if t.obstacle.Rule == "" {
				t.obstacle.Rule = r.place
			}
			if certain {
				return dropped, true
			}
		case accepted, returns:
			if certain {
				return end, true
			}
			t.perhaps = true
		case unsure:
			t.perhaps = true
		}
	}
	return returns, true
}

// A packet is known in all that matches ask for.
type packet struct {
	Packet
	in, out link
}

// field returns the value of a field in a register; nil if that is not known.
func (p *packet) field(f register) []byte {
	number := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	name := func(text string) []byte { return append([]byte(text), make([]byte, ifNameSize-len(text))...) }
	switch f {
	case outName:
		return name(p.Out)
	case inName:
		return name(p.In)
	case outIndex:
		return number(p.out.index)
	case inIndexOf:
		return number(p.in.index)
	case outGroup:
		return number(p.out.group)
	case inGroupOf:
		return number(p.in.group)
	case ctState:
		if p.Untracked {
			return number(1 << 6) // NF_CT_STATE_UNTRACKED_BIT
		}
		return number(1 << 3) // it begins a connection: NF_CT_STATE_BIT(IP_CT_NEW)
	case ipVersion:
		return []byte{unix.NFPROTO_IPV4}
	case etherType:
		return []byte{0x08, 0x00}
	case l4Protocol:
		return []byte{p.Protocol}
	case source:
		return p.From.AsSlice()
	case destination:
		return p.To.AsSlice()
	case destinationPort:
		return binary.BigEndian.AppendUint16(nil, p.Port)
	case destinationType:
		if p.Out != "" {
			return number(unix.RTN_UNICAST)
		}
		return number(unix.RTN_LOCAL)
	case socketUID:
		if p.In == "" {
			return number(p.UID)
		}
	}
	return nil
}

// between returns whether a field is in a range, both ends included.
func (p *packet) between(c content, from, to []byte) answer {
	if len(from) != len(to) {
		return maybe
	}
	return min(p.compare(c, unix.NFT_CMP_GTE, from), p.compare(c, unix.NFT_CMP_LTE, to))
}

// compare returns how a field compares with a value. A value that is shorter than the field stands for its beginning: a name that
// ends in '*', or a network of whole bytes.
func (p *packet) compare(c content, op uint32, value []byte) answer {
	is := slices.Clone(p.field(c.register))
	if is == nil || len(value) == 0 || len(value) > len(is) {
		return maybe
	}
	for i := range min(len(is), len(c.mask)) {
		is[i] &= c.mask[i]
	}
	order := bytes.Compare(is[:len(value)], value)
	switch op {
	case unix.NFT_CMP_GTE:
		return whether(order >= 0)
	case unix.NFT_CMP_LTE:
		return whether(order <= 0)
	case unix.NFT_CMP_GT:
		return whether(order > 0)
	case unix.NFT_CMP_LT:
		return whether(order < 0)
	}
	return maybe
}
