// Package ruleset reads and writes the kernel's nftables.
//
// The library for that returns neither handles nor generations, cannot make a transaction depend on a generation, and lacks some of
// the expressions of our rules (github.com/google/nftables 0.3.0).
//
// Concurrency: a Conn is for one goroutine at a time.
package ruleset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"vifproxy/internal/netlink"
)

// A Conn is a connection to the kernel's nftables.
type Conn struct {
	*netlink.Conn
	made   uint32
	answer []byte // of the last Repeat
}

// Attempts bounds how often one call starts over because other programs change the ruleset meanwhile. Qubes does so at every attach
// of a vif, in a few transactions.
const Attempts = 5

var (
	// ErrBusy means that a call has started over too often.
	ErrBusy = errors.New("other programs keep changing the ruleset while it is read")
	// ErrStale means that another transaction came first.
	ErrStale = errors.New("the ruleset has another generation")
)

// Unsupported reports whether an error means that this kernel has no nftables at all (nfnetlink_rcv_msg:
// EINVAL).
func Unsupported(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// undisturbed keeps the pins of this process away from who compares generations.
var undisturbed sync.Mutex

// Undisturbed runs f while this process pins nothing: a pin makes a generation, and there may be a hundred in a second. Who reads several
// things, and compares the generation before and after that, would never see the same one twice.
func Undisturbed(f func() error) error {
	undisturbed.Lock()
	defer undisturbed.Unlock()
	return f()
}

// Dial connects to the nftables of the network namespace of this thread.
func Dial() (*Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, roomForTransactions, briefErrors)
	if err != nil {
		return nil, err
	}
	return &Conn{Conn: conn}, nil
}

// A transaction is one message to the kernel and must fit (netlink_sendmsg: EMSGSIZE). A binding takes
// about 150 bytes; this is a limit, not an allocation.
const transactionMax = 8 << 20

func roomForTransactions(fd int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, transactionMax) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, transactionMax)
	}
	return nil
}

// briefErrors keeps the kernel from sending a whole request back with its error.
func briefErrors(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
}

// Made returns how many generations this connection has made for sure.
func (c *Conn) Made() uint32 { return c.made }

// Message returns one request to nftables, about a table of this family.
func Message(request uint16, family byte, flags uint16, attrs []byte) []byte {
	m := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+4+len(attrs))
	binary.NativeEndian.PutUint32(m, uint32(cap(m)))
	binary.NativeEndian.PutUint16(m[4:], unix.NFNL_SUBSYS_NFTABLES<<8|request)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|flags)
	m = append(m, family, unix.NFNETLINK_V0, 0, 0) // struct nfgenmsg
	return append(m, attrs...)
}

// Transact makes changes as one transaction, all or none of them. Under the lock that it holds to the end, the kernel checks that
// the ruleset still has this generation, and refuses otherwise (nf_tables_valid_genid); then Transact returns ErrStale. So after a
// success the ruleset is the one before with these changes, and its generation is the following one. Generation 0 stands for any.
func (c *Conn) Transact(generation uint32, changes [][]byte) error {
	err := c.TransactPerhaps(generation, changes)
	if err == nil && len(changes) > 0 {
		c.made++
	}
	return err
}

// TransactPerhaps is Transact for changes of which all may have been made already. Then the generation stays (nf_tables_commit).
func (c *Conn) TransactPerhaps(generation uint32, changes [][]byte) error {
	if len(changes) == 0 {
		return nil
	}
	var attrs []byte
	if generation != 0 {
		attrs = netlink.Append(nil, unix.NFNL_BATCH_GENID, binary.BigEndian.AppendUint32(nil, generation)...)
	}
	edge := func(kind uint16, attrs []byte) []byte {
		m := Message(0, unix.NFPROTO_UNSPEC, 0, attrs)
		binary.NativeEndian.PutUint16(m[4:], kind)
		m[unix.SizeofNlMsghdr+3] = unix.NFNL_SUBSYS_NFTABLES // nfgenmsg.res_id, big endian
		return m
	}
	// The kernel answers at the end, in the order of the messages, and to a message that failed even if that asks for no answer
	// (nfnetlink_rcv_batch). So the first answer is the result, if only the last change asks for one.
	last := changes[len(changes)-1]
	last[6] |= unix.NLM_F_ACK
	batch := slices.Concat(slices.Concat([][]byte{edge(unix.NFNL_MSG_BATCH_BEGIN, attrs)}, changes,
		[][]byte{edge(unix.NFNL_MSG_BATCH_END, nil)})...)
	_, err := c.Ask(batch)
	if errors.Is(err, unix.ERESTART) {
		return ErrStale
	}
	return err
}

// Dump returns objects: of one table, for requests that support this, or of all tables; with NFPROTO_UNSPEC of all families. Two
// tables of one name need two dumps, because the kernel ends after the first (nf_tables_dump_rules).
func (c *Conn) Dump(request uint16, family byte, table string) ([]Object, error) {
	var attrs []byte
	if table != "" { // the attribute has the same number in all requests
		attrs = netlink.AppendString(nil, unix.NFTA_RULE_TABLE, table)
	}
	return c.Ask(Message(request, family, unix.NLM_F_DUMP, attrs))
}

// RulesOf returns the rules of one chain, in their order. A chain that is not there has none.
func (c *Conn) RulesOf(family byte, table, chain string) ([]Object, error) {
	attrs := netlink.AppendString(netlink.AppendString(nil, unix.NFTA_RULE_TABLE, table), unix.NFTA_RULE_CHAIN, chain)
	all, err := c.Ask(Message(unix.NFT_MSG_GETRULE, family, unix.NLM_F_DUMP, attrs))
	// Before Linux 4.11 the kernel does not filter (6e1f760e13c7), and it does so only if the family is given.
	return slices.DeleteFunc(all, func(o Object) bool {
		return o.Family != family || o.Text(unix.NFTA_RULE_TABLE) != table || o.Text(unix.NFTA_RULE_CHAIN) != chain
	}), err
}

// Generation returns the number of the current ruleset. Every transaction that changes anything adds one.
func (c *Conn) Generation() (generation uint32, err error) {
	answers := 0
	err = c.Walk(Message(unix.NFT_MSG_GETGEN, unix.NFPROTO_UNSPEC, 0, nil), func(o Object) error {
		answers++
		generation = uint32(o.Number(unix.NFTA_GEN_ID))
		return nil
	})
	if err == nil && answers != 1 {
		err = fmt.Errorf("%d answers instead of one", answers)
	}
	if err != nil {
		return 0, fmt.Errorf("read generation: %w", err)
	}
	return generation, nil
}

// Following returns the generation after a transaction (nf_tables_commit leaves 0 out).
func Following(generation uint32) uint32 { return max(generation+1, 1) }

// Ask sends a request, one message or a batch, and returns the objects of the answer.
func (c *Conn) Ask(request []byte) (answer []Object, err error) {
	err = c.Walk(request, func(o Object) error {
		o.attrs = slices.Clone(o.attrs)
		answer = append(answer, o)
		return nil
	})
	return answer, err
}

// Walk sends a request and calls each for every object of the answer. The object is overwritten when each has returned. After
// netlink.ErrEnough, Walk reads no more of the answer. It is no error if a dump was interrupted: a caller that reads several things
// compares generations.
func (c *Conn) Walk(request []byte, each func(Object) error) error {
	err := c.Exchange(request, func(m netlink.Message) error {
		o, err := Parse(m.Body)
		if err != nil {
			return err
		}
		return each(o)
	})
	if errors.Is(err, netlink.ErrInterrupted) {
		return nil
	}
	return err
}

// Repeat sends a request, and reports whether the answer is the same as last, which an earlier call has returned. The
// answer is overwritten by the next call; Objects reads it.
func (c *Conn) Repeat(request, last []byte) (answer []byte, same bool, err error) {
	c.answer = c.answer[:0]
	err = c.Walk(request, func(o Object) error {
		c.answer = binary.NativeEndian.AppendUint32(c.answer, uint32(len(o.attrs)))
		c.answer = append(append(c.answer, o.Family), o.attrs...)
		return nil
	})
	return c.answer, err == nil && last != nil && bytes.Equal(c.answer, last), err
}

// Objects yields the objects of an answer to Repeat.
func Objects(answer []byte) iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for len(answer) > 0 {
			size := 5 + int(binary.NativeEndian.Uint32(answer))
			if !yield(Object{Family: answer[4], attrs: answer[5:size]}) {
				return
			}
			answer = answer[size:]
		}
	}
}
