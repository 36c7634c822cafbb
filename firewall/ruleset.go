package firewall

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ruleset is a connection to the kernel's nftables. The library knows how to change things; handles and
// generations, which it does not tell, are read over the same socket.
type ruleset struct {
	nft  *nftables.Conn
	nl   *netlink.Conn
	last snapshot // as long as its generation is the kernel's, it is what the kernel holds
}

func dial() (*ruleset, error) {
	var r ruleset
	var err error
	r.nft, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		r.nl = c
		// A batch is one message to the kernel and must fit (netlink_sendmsg: EMSGSIZE). A binding takes
		// about 150 bytes; this is a limit, not an allocation.
		return c.SetWriteBuffer(8 << 20)
	}))
	return &r, err
}

// limit sets the time after which answers that never come (the kernel ran out of memory for them) are given
// up.
func (r *ruleset) limit(ctx context.Context) error {
	deadline := time.Now().Add(15 * time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	return r.nl.SetDeadline(deadline)
}

// unsupported tells whether an error means that this kernel has no nftables at all (nfnetlink_rcv_msg:
// EINVAL).
func unsupported(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}

var errBusy = errors.New("other programs keep changing the ruleset while it is read")

// snapshot is what the kernel holds at one generation of its ruleset. The template reads the exported fields.
type snapshot struct {
	generation uint32

	OwnTable    bool     // table ip vifproxy
	FenceTable  bool     // table inet vifproxy
	FenceSet    bool     // set refused in it
	UserChain   bool     // chain custom-input in table ip qubes
	AcceptChain bool     // chain vifproxy-input in table ip qubes
	AcceptSet   bool     // set vifproxy in table ip qubes
	Jumps       []uint64 // handles of the tagged jumps in custom-input, in their order

	// print has one line for each thing that is ours, or that ours hangs on, with its handle and what can be
	// changed without giving it a new handle (a rule's content: `nft replace rule`). Within a table the
	// kernel never gives a handle twice, and a table made anew has a new handle itself: so equal prints mean
	// that nobody touched anything.
	print string

	elements map[setName]map[string]string
}

type setName struct{ table, name string }

// ourSets are in the order in which their elements are written.
var ourSets = []setName{{"vifproxy", "ports"}, {"vifproxy", "bindings"}, {"qubes", "vifproxy"}}

// read takes a snapshot. It needs several requests; that the generation is the same before and after them
// makes their answers one consistent picture. If it is still the last snapshot's, one request is enough.
func (r *ruleset) read() (snapshot, error) {
	for range attempts {
		generation, err := r.generation()
		if err != nil {
			return snapshot{}, err
		}
		if r.last.elements != nil && r.last.generation == generation {
			return r.last, nil
		}
		now, err := r.readOnce()
		after, err2 := r.generation()
		if err2 != nil {
			return snapshot{}, err2
		}
		if after != generation {
			continue // whatever err says, it may be only that something vanished
		}
		if err != nil {
			return snapshot{}, err
		}
		now.generation = generation
		r.last = now
		return now, nil
	}
	return snapshot{}, errBusy
}

// Numbers from the kernel's include/uapi/linux/netfilter/nf_tables.h that package unix lacks.
const (
	nftaTableHandle = 4
	nftaChainFlags  = 10
	nftaSetHandle   = 16
)

func (r *ruleset) readOnce() (snapshot, error) {
	var now snapshot
	var lines []string
	line := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }

	tables, err := r.dump(unix.NFT_MSG_GETTABLE, unix.NFPROTO_UNSPEC, "")
	if err != nil {
		return now, fmt.Errorf("read tables: %w", err)
	}
	for _, t := range tables {
		switch name := t.in(unix.NFTA_TABLE_NAME); name {
		case "vifproxy", "inet vifproxy":
			now.OwnTable = now.OwnTable || name == "vifproxy"
			now.FenceTable = now.FenceTable || name == "inet vifproxy"
			line("table %s: handle %d, flags %d", name,
				t.number(nftaTableHandle), t.number(unix.NFTA_TABLE_FLAGS))
		case "qubes":
			line("table qubes: handle %d", t.number(nftaTableHandle))
		}
	}

	chains, err := r.dump(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, "")
	if err != nil {
		return now, fmt.Errorf("read chains: %w", err)
	}
	for _, c := range chains {
		table, name := c.in(unix.NFTA_CHAIN_TABLE), c.text(unix.NFTA_CHAIN_NAME)
		switch {
		case table == "qubes" && name == "custom-input":
			now.UserChain = true
		case table == "qubes" && name == "vifproxy-input":
			now.AcceptChain = true
		case table != "vifproxy" && table != "inet vifproxy":
			continue
		}
		line("chain %s %s: handle %d, policy %d, flags %d", table, name, c.number(unix.NFTA_CHAIN_HANDLE),
			c.number(unix.NFTA_CHAIN_POLICY), c.number(nftaChainFlags))
	}

	sets, err := r.dump(unix.NFT_MSG_GETSET, unix.NFPROTO_UNSPEC, "")
	if err != nil {
		return now, fmt.Errorf("read sets: %w", err)
	}
	now.elements = make(map[setName]map[string]string)
	for _, s := range sets {
		set := setName{s.in(unix.NFTA_SET_TABLE), s.text(unix.NFTA_SET_NAME)}
		now.FenceSet = now.FenceSet || set == setName{"inet vifproxy", "refused"}
		if set.table != "vifproxy" && set.table != "inet vifproxy" && set != (setName{"qubes", "vifproxy"}) {
			continue
		}
		line("set %s %s: handle %d", set.table, set.name, s.number(nftaSetHandle))
		if !slices.Contains(ourSets, set) {
			continue
		}
		elements, err := r.nft.GetSetElements(set.library())
		if err != nil {
			return now, fmt.Errorf("read elements of set %s %s: %w", set.table, set.name, err)
		}
		now.elements[set] = make(map[string]string, len(elements))
		for _, e := range elements {
			now.elements[set][string(e.Key)] = string(e.Val)
		}
	}
	_, now.AcceptSet = now.elements[setName{"qubes", "vifproxy"}]

	for _, from := range []struct {
		family byte
		table  string
	}{{unix.NFPROTO_IPV4, "vifproxy"}, {unix.NFPROTO_INET, "vifproxy"}, {unix.NFPROTO_IPV4, "qubes"}} {
		rules, err := r.dump(unix.NFT_MSG_GETRULE, from.family, from.table)
		if err != nil {
			return now, fmt.Errorf("read rules of table %s: %w", from.table, err)
		}
		for _, rule := range rules {
			table, chain, handle := rule.in(unix.NFTA_RULE_TABLE), rule.text(unix.NFTA_RULE_CHAIN), rule.number(unix.NFTA_RULE_HANDLE)
			switch {
			case table == "vifproxy", table == "inet vifproxy":
			case table == "qubes" && chain == "custom-input" && rule.isJump():
				now.Jumps = append(now.Jumps, handle)
			case table == "qubes" && chain == "vifproxy-input":
			default:
				continue
			}
			line("rule %s %s: handle %d, content %08x", table, chain, handle,
				crc32.ChecksumIEEE(rule[unix.NFTA_RULE_EXPRESSIONS]))
		}
	}
	now.print = strings.Join(lines, "\n")
	return now, nil
}

// update writes the difference between what now holds and want as one transaction.
func (r *ruleset) update(now snapshot, want []Binding) (writes int, err error) {
	wanted := map[setName]map[string]string{}
	for _, set := range ourSets {
		wanted[set] = make(map[string]string, len(want))
	}
	for _, b := range want {
		var vif [unix.IFNAMSIZ]byte
		copy(vif[:], b.Vif)
		source := string(vif[:]) + string(b.Addr.AsSlice())
		// Every part of a key is padded to a multiple of 4 bytes.
		port := string([]byte{byte(b.To.Port() >> 8), byte(b.To.Port()), 0, 0})
		wanted[ourSets[0]][source] = string(b.To.Addr().AsSlice()) + port
		wanted[ourSets[1]][source+port] = ""
		wanted[ourSets[2]][source+port] = ""
	}
	for _, set := range ourSets {
		have, present := now.elements[set]
		if !present { // table ip qubes, where there is none
			continue
		}
		gone, added := difference(have, wanted[set]), difference(wanted[set], have)
		// A map's element must go before the one with the same key and another value comes. Both happen at
		// the same instant, the end of the transaction.
		for part := range slices.Chunk(gone, perMessage) {
			if err := r.nft.SetDeleteElements(set.library(), part); err != nil {
				return 0, err
			}
		}
		for part := range slices.Chunk(added, perMessage) {
			if err := r.nft.SetAddElements(set.library(), part); err != nil {
				return 0, err
			}
		}
		writes += len(gone) + len(added)
	}
	if err := r.nft.Flush(); err != nil {
		return 0, fmt.Errorf("change %d elements: %w", writes, err)
	}
	return writes, nil
}

// perMessage elements fit in one message: together they are one attribute, whose length is a 16 bit number.
const perMessage = 1000

// difference is every element of a that is not in b, or is there with another value.
func difference(a, b map[string]string) (elements []nftables.SetElement) {
	for key, value := range a {
		if other, ok := b[key]; !ok || other != value {
			elements = append(elements, nftables.SetElement{Key: []byte(key), Val: []byte(value)})
		}
	}
	return elements
}

func (s setName) library() *nftables.Set {
	return &nftables.Set{Table: &nftables.Table{Name: s.table, Family: nftables.TableFamilyIPv4}, Name: s.name}
}

// generation is the number of the current ruleset; every transaction that changes anything adds one.
func (r *ruleset) generation() (uint32, error) {
	answer, err := r.ask(unix.NFT_MSG_GETGEN, unix.NFPROTO_UNSPEC, netlink.Request, nil)
	if err != nil {
		return 0, fmt.Errorf("read generation: %w", err)
	}
	if len(answer) != 1 {
		return 0, fmt.Errorf("read generation: %d answers instead of one", len(answer))
	}
	return uint32(answer[0].number(unix.NFTA_GEN_ID)), nil
}

// refused reads how many packets of each uid the fence has counted.
func (r *ruleset) refused() (map[uint32]uint64, error) {
	elements, err := r.nft.GetSetElements(&nftables.Set{
		Table: &nftables.Table{Name: "vifproxy", Family: nftables.TableFamilyINet}, Name: "refused"})
	if err != nil {
		return nil, fmt.Errorf("read counters of the fence: %w", err)
	}
	count := make(map[uint32]uint64, len(elements))
	for _, e := range elements {
		if len(e.Key) == 4 && e.Counter != nil {
			count[binary.NativeEndian.Uint32(e.Key)] = e.Counter.Packets // nft_meta.c: a number of the host
		}
	}
	return count, nil
}

// dump lists objects: of one table, for requests that know this, or of all tables, and of all families with
// NFPROTO_UNSPEC. Two tables of one name are two dumps: the kernel ends after the first
// (nf_tables_dump_rules).
func (r *ruleset) dump(request uint16, family byte, table string) ([]object, error) {
	var attrs []netlink.Attribute
	if table != "" { // the attribute has the same number in all requests
		attrs = append(attrs, netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: []byte(table + "\x00")})
	}
	return r.ask(request, family, netlink.Request|netlink.Dump, attrs)
}

func (r *ruleset) ask(
	request uint16, family byte, flags netlink.HeaderFlags, attrs []netlink.Attribute,
) ([]object, error) {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	answers, err := r.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | request), Flags: flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...), // struct nfgenmsg
	})
	if err != nil {
		return nil, err
	}
	objects := make([]object, len(answers))
	for i, answer := range answers {
		if objects[i], err = parse(answer); err != nil {
			return nil, err
		}
	}
	return objects, nil
}

// object is one message of the kernel about a table, chain, rule, set or generation: its attributes by
// number. Attribute 0, which is none, holds the family.
type object map[uint16][]byte

func parse(m netlink.Message) (object, error) {
	if len(m.Data) < 4 { // struct nfgenmsg
		return nil, fmt.Errorf("short netlink message (%d bytes)", len(m.Data))
	}
	attrs, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return nil, err
	}
	o := object{0: m.Data[:1]}
	for attrs.Next() {
		o[attrs.Type()] = attrs.Bytes()
	}
	return o, attrs.Err()
}

// in reads the name of the object's table. Those of another family than ip have it before the name, as nft
// writes it.
func (o object) in(attr uint16) string {
	switch family := o[0][0]; family {
	case unix.NFPROTO_IPV4:
		return o.text(attr)
	case unix.NFPROTO_INET:
		return "inet " + o.text(attr)
	default:
		return fmt.Sprintf("family %d %s", family, o.text(attr))
	}
}

func (o object) text(attr uint16) string {
	return string(bytes.TrimSuffix(o[attr], []byte{0}))
}

// number reads an unsigned number of any size; one that is not there is 0.
func (o object) number(attr uint16) (n uint64) {
	for _, b := range o[attr] {
		n = n<<8 | uint64(b)
	}
	return n
}

// isJump finds our rule in custom-input again: it has our comment and names our chain. A rule of the user's
// that only has the same comment is the user's.
func (o object) isJump() bool {
	const comment = "\x00\x09vifproxy\x00" // as nft stores it: type, length, value
	return string(o[unix.NFTA_RULE_USERDATA]) == comment &&
		bytes.Contains(o[unix.NFTA_RULE_EXPRESSIONS], []byte("vifproxy-input\x00"))
}
