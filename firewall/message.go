package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Numbers from the kernel's include/uapi/linux/netfilter/nf_tables.h that package unix lacks.
const (
	nftaTableHandle   = 4
	nftaChainFlags    = 10
	nftaSetHandle     = 16
	nftaSetElemKeyEnd = 10
)

// answerTime is how long answers are waited for that never come, as when the kernel runs out of memory for them. All
// others are there when a request has been sent.
var answerTime = unix.Timeval{Sec: 10}

// redial gives up an answer that is under way.
func (r *ruleset) redial() error {
	fresh, err := dial()
	if err != nil {
		return err
	}
	_ = r.socket.Close()
	r.socket, r.sequence = fresh.socket, 0
	return nil
}

func dial() (*ruleset, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "nfnetlink")
	// A transaction is one message to the kernel and must fit (netlink_sendmsg: EMSGSIZE). A binding takes
	// about 150 bytes; this is a limit, not an allocation. An error would come with what it is about, all of it.
	const room = 8 << 20
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, room) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, room)
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1); err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &answerTime)
	}
	if err == nil { // so that nobody but the kernel can send it anything (netlink_getsockbyportid)
		err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("connect netlink socket: %w", err)
	}
	return &ruleset{socket: file, buf: make([]byte, answerSize)}, nil
}

// answerSize is the room for a part of an answer: the kernel sends 32 KiB at most (netlink_dump).
const answerSize = 64 << 10

// message is one request to nftables. Its family is that of the table it is about.
func message(request uint16, family byte, flags uint16, attrs []byte) []byte {
	m := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+4+len(attrs))
	binary.NativeEndian.PutUint32(m, uint32(cap(m)))
	binary.NativeEndian.PutUint16(m[4:], unix.NFNL_SUBSYS_NFTABLES<<8|request)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|flags)
	m = append(m, family, unix.NFNETLINK_V0, 0, 0) // struct nfgenmsg
	return append(m, attrs...)
}

// attribute appends one to those that are there: length, number, data, padded to a multiple of 4 bytes.
func attribute(to []byte, number uint16, data ...byte) []byte {
	to = binary.NativeEndian.AppendUint16(to, uint16(unix.SizeofNlAttr+len(data)))
	to = binary.NativeEndian.AppendUint16(to, number)
	to = append(to, data...)
	return append(to, make([]byte, -len(data)&3)...)
}

// nested appends one that is made of others.
func nested(to []byte, number uint16, fill func(to []byte) []byte) []byte {
	start := len(to)
	to = fill(attribute(to, unix.NLA_F_NESTED|number))
	binary.NativeEndian.PutUint16(to[start:], uint16(len(to)-start))
	return to
}

// name appends an attribute that is a string.
func name(to []byte, number uint16, text string) []byte {
	return attribute(to, number, append([]byte(text), 0)...)
}

// errOutrun means that another transaction came first.
var errOutrun = errors.New("the ruleset has another generation")

// transact makes changes as one transaction, all or none of them. The kernel checks, under the lock that it holds
// to the end, that the ruleset still has this generation, and else refuses (nf_tables_valid_genid): errOutrun. So
// after a success the ruleset is the one before and these changes, and its generation the following one.
// Generation 0 stands for any.
func (r *ruleset) transact(generation uint32, changes [][]byte) error {
	if len(changes) == 0 {
		return nil
	}
	var attrs []byte
	if generation != 0 {
		attrs = attribute(nil, unix.NFNL_BATCH_GENID, binary.BigEndian.AppendUint32(nil, generation)...)
	}
	edge := func(kind uint16, attrs []byte) []byte {
		m := message(0, unix.NFPROTO_UNSPEC, 0, attrs)
		binary.NativeEndian.PutUint16(m[4:], kind)
		m[unix.SizeofNlMsghdr+3] = unix.NFNL_SUBSYS_NFTABLES // nfgenmsg.res_id, big endian
		return m
	}
	// The kernel answers when all is over, in the order of the messages, and to one that failed also if it is not
	// asked to (nfnetlink_rcv_batch). So the first answer tells, if only the last change asks for one.
	last := changes[len(changes)-1]
	last[6] |= unix.NLM_F_ACK
	batch := slices.Concat(slices.Concat([][]byte{edge(unix.NFNL_MSG_BATCH_BEGIN, attrs)}, changes,
		[][]byte{edge(unix.NFNL_MSG_BATCH_END, nil)})...)
	_, err := r.ask(batch)
	if errors.Is(err, unix.ERESTART) {
		return errOutrun
	}
	if err == nil {
		r.made++
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
	return r.ask(message(request, family, unix.NLM_F_DUMP, attrs))
}

// rulesOf returns the rules of one chain, in their order. A chain that is not there has none.
func (r *ruleset) rulesOf(family byte, table, chain string) ([]object, error) {
	attrs := name(name(nil, unix.NFTA_RULE_TABLE, table), unix.NFTA_RULE_CHAIN, chain)
	all, err := r.ask(message(unix.NFT_MSG_GETRULE, family, unix.NLM_F_DUMP, attrs))
	// Before Linux 4.11 the kernel does not choose (6e1f760e13c7), and it does so only where the family is said.
	return slices.DeleteFunc(all, func(o object) bool {
		return o[0][0] != family || o.text(unix.NFTA_RULE_TABLE) != table || o.text(unix.NFTA_RULE_CHAIN) != chain
	}), err
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

// ask sends a request, one message or a batch, and returns the messages of the answer.
func (r *ruleset) ask(request []byte) (answer []object, err error) {
	answer, _, err = r.askUntil(request, func(object) bool { return false })
	return answer, err
}

// askUntil is ask, but reads no more of the answer after a message that is enough. Then the answer is not whole, the rest of it
// is under way, and the next thing to do is redial.
func (r *ruleset) askUntil(request []byte, enough func(object) bool) (answer []object, whole bool, err error) {
	r.sequence++
	for m := request; len(m) > 0; m = m[binary.NativeEndian.Uint32(m):] {
		binary.NativeEndian.PutUint32(m[8:], r.sequence)
	}
	if _, err := r.socket.Write(request); err != nil {
		return nil, false, err
	}
	for {
		n, err := r.socket.Read(r.buf)
		if err != nil {
			return nil, false, err
		}
		messages, err := syscall.ParseNetlinkMessage(slices.Clone(r.buf[:n]))
		if err != nil {
			return nil, false, fmt.Errorf("malformed netlink message: %w", err)
		}
		for _, m := range messages {
			if m.Header.Seq != r.sequence || len(m.Data) < 4 { // all begin with an errno, or struct nfgenmsg
				return nil, false, fmt.Errorf("netlink message out of place (number %d instead of %d, %d bytes)",
					m.Header.Seq, r.sequence, len(m.Data))
			}
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
					return nil, false, unix.Errno(errno)
				}
				return answer, true, nil
			}
			answer = append(answer, parse(m.Data))
			if enough(answer[len(answer)-1]) {
				return answer, false, nil
			}
			if m.Header.Flags&unix.NLM_F_MULTI == 0 {
				return answer, true, nil
			}
		}
	}
}

// object is one message of the kernel about a table, chain, rule, set or generation: its attributes by
// number. Attribute 0, which is none, holds the family.
type object map[uint16][]byte

// parse reads what follows a message's header.
func parse(message []byte) object {
	o := object{0: message[:1]}
	for number, data := range attributes(message[4:]) { // after struct nfgenmsg
		o[number] = data
	}
	return o
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
