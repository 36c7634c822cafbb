package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// kernel is a connection to the kernel's nftables that remembers what it has read.
type kernel struct {
	*ruleset.Conn
	last snapshot // as long as its generation is the kernel's, it is what the kernel holds
}

func dial() (*kernel, error) {
	conn, err := ruleset.Dial()
	if err != nil {
		return nil, err
	}
	return &kernel{Conn: conn}, nil
}

// snapshot is what the kernel holds at one generation of its ruleset.
type snapshot struct {
	generation uint32

	ownTable    bool     // table ip vifproxy
	fenceTable  bool     // table inet vifproxy
	userChain   bool     // chain custom-input in table ip qubes
	acceptChain bool     // chain vifproxy-input in table ip qubes
	acceptSet   bool     // set vifproxy in table ip qubes
	jumps       []uint64 // handles of the tagged jumps in custom-input, in their order

	// print has one line for each thing that is ours, or that ours hangs on, with its handle and what can be
	// changed without giving it a new handle (a rule's content: `nft replace rule`). Within a table the
	// kernel never gives a handle twice, and a table made anew has a new handle itself: so equal prints mean
	// that nobody touched anything.
	print string

	sets     [len(ourSets)]bool // which are there
	elements []element          // in order
	known    bool               // what is in the sets is a state, in order; elements do not say it any more
	held     firewall.State
}

// read takes a snapshot. It needs several requests; that the generation is the same before and after them
// makes their answers one consistent picture. If it is still the last snapshot's, one request is enough.
func (r *kernel) read() (snapshot, error) {
	for range ruleset.Attempts {
		generation, err := r.Generation()
		if err != nil {
			return snapshot{}, err
		}
		if r.last.generation == generation {
			return r.last, nil
		}
		now, err := r.readOnce()
		after, err2 := r.Generation()
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
	return snapshot{}, ruleset.ErrBusy
}

func (r *kernel) readOnce() (snapshot, error) {
	var now snapshot
	var lines []string
	line := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }

	tables, err := r.Dump(unix.NFT_MSG_GETTABLE, unix.NFPROTO_UNSPEC, "")
	if err != nil {
		return now, fmt.Errorf("read tables: %w", err)
	}
	for _, t := range tables {
		switch name := t.Table(unix.NFTA_TABLE_NAME); name {
		case "vifproxy", "inet vifproxy":
			now.ownTable = now.ownTable || name == "vifproxy"
			now.fenceTable = now.fenceTable || name == "inet vifproxy"
			line("table %s: handle %d, flags %d", name,
				t.Number(ruleset.TableHandle), t.Number(unix.NFTA_TABLE_FLAGS))
		case "qubes":
			line("table qubes: handle %d", t.Number(ruleset.TableHandle))
		}
	}

	chains, err := r.Dump(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, "")
	if err != nil {
		return now, fmt.Errorf("read chains: %w", err)
	}
	for _, c := range chains {
		table, name := c.Table(unix.NFTA_CHAIN_TABLE), c.Text(unix.NFTA_CHAIN_NAME)
		switch {
		case table == "qubes" && name == "custom-input":
			now.userChain = true
		case table == "qubes" && name == "vifproxy-input":
			now.acceptChain = true
		case table != "vifproxy" && table != "inet vifproxy":
			continue
		}
		line("chain %s %s: handle %d, policy %d, flags %d", table, name, c.Number(unix.NFTA_CHAIN_HANDLE),
			c.Number(unix.NFTA_CHAIN_POLICY), c.Number(ruleset.ChainFlags))
	}

	sets, err := r.Dump(unix.NFT_MSG_GETSET, unix.NFPROTO_UNSPEC, "")
	if err != nil {
		return now, fmt.Errorf("read sets: %w", err)
	}
	for _, s := range sets {
		name := setName{s.Table(unix.NFTA_SET_TABLE), s.Text(unix.NFTA_SET_NAME)}
		if name.table != "vifproxy" && name.table != "inet vifproxy" && name != ourSets[acceptSet].setName {
			continue
		}
		line("set %s %s: handle %d", name.table, name.name, s.Number(ruleset.SetHandle))
		place := slices.IndexFunc(ourSets[:], func(s set) bool { return s.setName == name })
		if place < 0 {
			continue
		}
		now.sets[place] = true
		if err := r.elements(name, func(d *netlink.Decoder, e []byte) {
			key := d.Find(e, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)
			value := d.Find(e, unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VALUE)
			end := d.Find(e, ruleset.SetElemKeyEnd, unix.NFTA_DATA_VALUE)
			if key == nil { // nobody but nft can take it out again
				line("set %s %s: an element for all keys", name.table, name.name)
				return
			}
			now.elements = append(now.elements, element{place, string(key), string(value) + string(end)})
		}); err != nil {
			return now, err
		}
	}
	now.acceptSet = now.sets[acceptSet]
	slices.SortFunc(now.elements, compareElements)

	for _, from := range []struct {
		family byte
		table  string
	}{{unix.NFPROTO_IPV4, "vifproxy"}, {unix.NFPROTO_INET, "vifproxy"}, {unix.NFPROTO_IPV4, "qubes"}} {
		rules, err := r.Dump(unix.NFT_MSG_GETRULE, from.family, from.table)
		if err != nil {
			return now, fmt.Errorf("read rules of table %s: %w", from.table, err)
		}
		for _, rule := range rules {
			table, chain := rule.Table(unix.NFTA_RULE_TABLE), rule.Text(unix.NFTA_RULE_CHAIN)
			handle, content := rule.Number(unix.NFTA_RULE_HANDLE), rule.Get(unix.NFTA_RULE_EXPRESSIONS)
			switch {
			case table == "vifproxy", table == "inet vifproxy":
			case table == "qubes" && chain == "custom-input" && isJump(rule):
				now.jumps = append(now.jumps, handle)
			case table == "qubes" && chain == "vifproxy-input":
			default:
				continue
			}
			line("rule %s %s: handle %d, content %08x", table, chain, handle, crc32.ChecksumIEEE(content))
		}
	}
	now.print = strings.Join(lines, "\n")
	return now, nil
}

// refused reads how many packets of each uid the fence has counted. Without a fence it is none.
func (r *kernel) refused() (map[uint32]uint64, error) {
	count := make(map[uint32]uint64)
	err := r.elements(refusedSet, func(d *netlink.Decoder, e []byte) {
		uid := d.Find(e, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)
		packets := d.Find(e, unix.NFTA_SET_ELEM_EXPR, unix.NFTA_EXPR_DATA, unix.NFTA_COUNTER_PACKETS)
		if len(uid) == 4 && len(packets) == 8 {
			count[binary.NativeEndian.Uint32(uid)] = binary.BigEndian.Uint64(packets) // nft_meta.c: a number of the host
		}
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("counters of the fence: %w", err)
	}
	return count, nil
}

// isJump finds our rule in custom-input again: it has our comment and names our chain. A rule of the user's
// that only has the same comment is the user's.
func isJump(o ruleset.Object) bool {
	return string(o.Get(unix.NFTA_RULE_USERDATA)) == userdata("vifproxy") &&
		bytes.Contains(o.Get(unix.NFTA_RULE_EXPRESSIONS), []byte("vifproxy-input\x00"))
}
