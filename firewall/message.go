package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Numbers from the kernel's include/uapi/linux/netfilter/nf_tables.h that package unix lacks.
const (
	nftaTableHandle = 4
	nftaChainFlags  = 10
	nftaSetHandle   = 16
)

// message is one request to nftables. Its family is that of the table it is about.
func message(request uint16, family byte, flags netlink.HeaderFlags, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | request),
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...), // struct nfgenmsg
	}
}

// attribute appends one to those that are there: length, type, data, padded to a multiple of 4 bytes.
func attribute(to []byte, number uint16, data ...byte) []byte {
	to = binary.NativeEndian.AppendUint16(to, uint16(unix.SizeofNlAttr+len(data)))
	to = binary.NativeEndian.AppendUint16(to, number)
	to = append(to, data...)
	return append(to, make([]byte, -len(data)&3)...)
}

// name appends an attribute that is a string.
func name(to []byte, number uint16, text string) []byte {
	return attribute(to, number, append([]byte(text), 0)...)
}

// errOutrun means that another transaction came first.
var errOutrun = errors.New("the ruleset has another generation")

// transact makes changes as one transaction, all or none of them. The kernel checks, under the lock that it holds
// until the end of it, that the ruleset still has this generation, and else refuses with errOutrun
// (nf_tables_valid_genid); 0 is any generation. So when there is no error, the next generation is the one before
// and these changes.
func (r *ruleset) transact(generation uint32, changes []netlink.Message) error {
	if len(changes) == 0 {
		return nil // an empty transaction makes no generation
	}
	var expected []byte
	if generation != 0 {
		expected = attribute(nil, unix.NFNL_BATCH_GENID, binary.BigEndian.AppendUint32(nil, generation)...)
	}
	bound := func(kind netlink.HeaderType, attrs []byte) netlink.Message {
		m := message(0, unix.NFPROTO_UNSPEC, 0, attrs)
		m.Header.Type, m.Data[3] = kind, unix.NFNL_SUBSYS_NFTABLES // res_id, in the order of the network
		return m
	}
	// The kernel answers in the order of the messages and only when the transaction has ended, errors whether
	// asked or not (nfnetlink_rcv_batch). So one answer to the last message tells: if another comes
	// before it, that is the error.
	changes[len(changes)-1].Header.Flags |= netlink.Acknowledge
	batch := append([]netlink.Message{bound(unix.NFNL_MSG_BATCH_BEGIN, expected)}, changes...)
	if _, err := r.nl.SendMessages(append(batch, bound(unix.NFNL_MSG_BATCH_END, nil))); err != nil {
		return err
	}
	_, err := r.nl.Receive()
	if errors.Is(err, unix.ERESTART) {
		return errOutrun
	}
	return err
}

// dump lists objects: of one table, for requests that know this, or of all tables, and of all families with
// NFPROTO_UNSPEC. Two tables of one name are two dumps: the kernel ends after the first
// (nf_tables_dump_rules).
func (r *ruleset) dump(request uint16, family byte, table string) ([]object, error) {
	var attrs []byte
	if table != "" { // the attribute has the same number in all requests
		attrs = name(nil, unix.NFTA_RULE_TABLE, table)
	}
	return r.ask(message(request, family, netlink.Dump, attrs))
}

// generation is the number of the current ruleset; every transaction that changes anything adds one.
func (r *ruleset) generation() (uint32, error) {
	answer, err := r.ask(message(unix.NFT_MSG_GETGEN, unix.NFPROTO_UNSPEC, 0, nil))
	if err != nil {
		return 0, fmt.Errorf("read generation: %w", err)
	}
	if len(answer) != 1 {
		return 0, fmt.Errorf("read generation: %d answers instead of one", len(answer))
	}
	return uint32(answer[0].number(unix.NFTA_GEN_ID)), nil
}

// following is the generation that a transaction makes (nf_tables_commit: 0 is left out).
func following(generation uint32) uint32 { return max(generation+1, 1) }

func (r *ruleset) ask(request netlink.Message) ([]object, error) {
	answers, err := r.nl.Execute(request)
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
	o := object{0: m.Data[:1]}
	for number, data := range attributes(m.Data[4:]) {
		o[number] = data
	}
	return o, nil
}

// attributes are those in b, up to its end or to one that is cut short.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(number uint16, data []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			length, number := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
			if length < unix.SizeofNlAttr || length > len(b) ||
				!yield(number&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofNlAttr:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}

// inside finds an attribute in one in one; nil if it is not there.
func inside(b []byte, path ...uint16) []byte {
	for number, data := range attributes(b) {
		if number == path[0] && len(path) > 1 {
			return inside(data, path[1:]...)
		} else if number == path[0] {
			return data
		}
	}
	return nil
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
