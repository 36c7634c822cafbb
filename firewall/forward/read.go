package forward

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	rtnetlink "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// A Reader reads the chains of hooks prerouting, forward and postrouting: those of nftables, which are also those of iptables-nft, and of
// iptables-legacy if it is in use. Several goroutines may use it.
type Reader struct {
	mu         sync.Mutex // of a Read; stale is without
	conn       *ruleset.Conn
	generation uint32 // of the ruleset that chains are of
	chains     []*chain
	links      []link
	looked     time.Time   // at links
	stale      atomic.Bool // links
}

// linksAgeMax is how long a Reader believes links if nobody says that they have changed.
const linksAgeMax = 30 * time.Second

// LinksChanged makes the next Read look at the links again.
func (r *Reader) LinksChanged() { r.stale.Store(true) }

// readLinks reads the links if they may have changed. The time that this takes grows with the AppVMs, so it is not done for their
// vifs.
func (r *Reader) readLinks() error {
	if !r.stale.Swap(false) && time.Since(r.looked) < linksAgeMax {
		return nil
	}
	list, err := rtnetlink.LinkList()
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

// Read returns what the chains say now. It reads rules again only if the ruleset has changed, and links only after LinksChanged or
// after 30 s.
func (r *Reader) Read(ctx context.Context) (firewall.Forward, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.readLinks()
	if err != nil {
		return firewall.Forward{}, err
	}
	if r.conn == nil {
		if r.conn, err = ruleset.Dial(); err != nil {
			return firewall.Forward{}, fmt.Errorf("read chains of hook forward: %w", err)
		}
	}
	if err = ruleset.Undisturbed(r.readChains); err != nil {
		_ = r.conn.Close() // answers may be under way
		r.conn, r.chains = nil, nil
		if !ruleset.Unsupported(err) {
			return firewall.Forward{}, fmt.Errorf("read chains of hook forward: %w", err)
		}
	}
	legacy, unread, err := legacyForward(ctx)
	if err != nil {
		return firewall.Forward{}, fmt.Errorf("read chain FORWARD of iptables-legacy: %w", err)
	}
	f := judgeAll(slices.Concat(r.chains, legacy), r.links)
	f.Unread = unread
	return f, nil
}

func (r *Reader) readChains() error {
	for range ruleset.Attempts {
		generation, err := r.conn.Generation()
		if err != nil {
			return err
		}
		if r.chains != nil && r.generation == generation {
			return nil
		}
		chains, err := forwardChains(r.conn)
		after, err2 := r.conn.Generation()
		switch {
		case err2 != nil:
			return err2
		case after != generation:
			continue // err may mean only that something vanished
		case err != nil:
			return err
		}
		r.chains, r.generation = chains, generation
		return nil
	}
	return ruleset.ErrBusy
}

// forwardChains returns all chains of the tables that have a chain that sees what is forwarded, as far as chainsAt reads them.
func forwardChains(conn *ruleset.Conn) ([]*chain, error) {
	return chainsAt(conn, func(hook uint32) bool {
		return hook == unix.NF_INET_PRE_ROUTING || hook == unix.NF_INET_FORWARD || hook == unix.NF_INET_POST_ROUTING
	}, true)
}

// ours are the tables of the fence, which are not asked.
var ours = []string{"ip vifproxy", "inet vifproxy"}

// chainsAt returns all chains of other programs' tables that have a base chain of a hook that is asked for, with the rules of those
// chains that a packet may reach from there. With byOut, chains of hook prerouting count only if they ask the routing table by which
// interface a packet will leave.
func chainsAt(conn *ruleset.Conn, is func(hook uint32) bool, byOut bool) (all []*chain, err error) {
	all = []*chain{}
	var d netlink.Decoder
	asleep, err := dormant(conn)
	if err != nil {
		return nil, err
	}
	list, err := conn.Dump(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, "")
	if err != nil {
		return nil, err
	}
	type table struct {
		family byte
		name   string
	}
	tables := make(map[table]map[string]*chain)
	var order []table
	for _, o := range list {
		t := table{o.Family, o.Text(unix.NFTA_CHAIN_TABLE)}
		hook := d.Find(o.Get(unix.NFTA_CHAIN_HOOK), unix.NFTA_HOOK_HOOKNUM)
		families, ok := map[byte][]bool{
			unix.NFPROTO_IPV4: {false}, unix.NFPROTO_IPV6: {true}, unix.NFPROTO_INET: {false, true},
		}[t.family]
		if !ok || asleep[tableName(t.family, t.name)] || slices.Contains(ours, tableName(t.family, t.name)) {
			continue
		}
		if tables[t] == nil {
			tables[t] = make(map[string]*chain)
			order = append(order, t)
		}
		name := o.Text(unix.NFTA_CHAIN_NAME)
		c := &chain{place: fmt.Sprintf("table %s, chain %s", tableName(t.family, t.name), name), families: families, table: tables[t]}
		if len(hook) == 4 {
			c.number = binary.BigEndian.Uint32(hook)
			c.hook = is(c.number)
			c.nat = o.Text(unix.NFTA_CHAIN_TYPE) == "nat"
		}
		if priority := d.Find(o.Get(unix.NFTA_CHAIN_HOOK), unix.NFTA_HOOK_PRIORITY); len(priority) == 4 {
			c.priority = int32(binary.BigEndian.Uint32(priority))
		}
		c.policy = accepted
		if o.Number(unix.NFTA_CHAIN_POLICY) == 0 && o.Get(unix.NFTA_CHAIN_POLICY) != nil { // NF_DROP
			c.policy = dropped
		}
		tables[t][name] = c
		all = append(all, c)
	}
	if err := d.Err(); err != nil {
		return nil, err
	}
	for _, t := range order {
		if len(hooked(tables[t])) == 0 {
			continue
		}
		list, err := conn.Dump(unix.NFT_MSG_GETSET, t.family, t.name)
		if err != nil {
			return nil, fmt.Errorf("sets of table %s: %w", tableName(t.family, t.name), err)
		}
		sets := make(map[string]set)
		for _, o := range list {
			flags := o.Number(unix.NFTA_SET_FLAGS)
			sets[o.Text(unix.NFTA_SET_NAME)] = set{
				intervals: flags&unix.NFT_SET_INTERVAL != 0,
				keyBytes:  o.Number(unix.NFTA_SET_KEY_LEN),
				passing:   flags&(unix.NFT_SET_TIMEOUT|unix.NFT_SET_EVAL) != 0,
			}
		}
		known := tableOf{conn, t.family, t.name, tables[t], sets}
		if byOut {
			if err := known.readEarly(); err != nil {
				return nil, err
			}
		}
		if err := known.readReached(hooked(tables[t]), false); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// dormant returns the tables whose chains the kernel does not call (flags dormant).
func dormant(conn *ruleset.Conn) (map[string]bool, error) {
	list, err := conn.Dump(unix.NFT_MSG_GETTABLE, unix.NFPROTO_UNSPEC, "")
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, o := range list {
		all[tableName(o.Family, o.Text(unix.NFTA_TABLE_NAME))] = o.Number(unix.NFTA_TABLE_FLAGS)&unix.NFT_TABLE_F_DORMANT != 0
	}
	return all, nil
}

// A tableOf is a table whose rules are read.
type tableOf struct {
	conn   *ruleset.Conn
	family byte
	name   string
	chains map[string]*chain
	sets   map[string]set
}

// readEarly reads the chains of hook prerouting. If none of them asks by which interface a packet will leave, it forgets them again.
func (t tableOf) readEarly() error {
	var early []string
	for _, name := range hooked(t.chains) {
		if t.chains[name].number != unix.NF_INET_PRE_ROUTING {
			continue
		}
		rules, err := t.conn.RulesOf(t.family, t.name, name)
		if err != nil {
			return fmt.Errorf("rules of table %s, chain %s: %w", tableName(t.family, t.name), name, err)
		}
		if t.chains[name].hook = slices.ContainsFunc(rules, mayAskRoutes); t.chains[name].hook {
			early = append(early, name)
		}
	}
	if len(early) == 0 {
		return nil
	}
	if err := t.readReached(early, true); err != nil || t.chains[early[0]].asks() {
		return err
	}
	for _, name := range early {
		t.chains[name].hook = false
	}
	for _, c := range t.chains {
		c.rules, c.out, c.read = nil, nil, false
	}
	return nil
}

// mayAskRoutes reports whether a rule may ask the routing table, or lead to another chain: NFT_JUMP, NFT_GOTO, or a map of verdicts. To
// look for these bytes takes less than to read the rule, and Qubes before R4.2 has rules against spoofing for each AppVM.
func mayAskRoutes(o ruleset.Object) bool {
	list := o.Get(unix.NFTA_RULE_EXPRESSIONS)
	return slices.ContainsFunc([]string{"fib\x00", "lookup\x00", "\xff\xff\xff\xfd", "\xff\xff\xff\xfc"}, func(part string) bool {
		return bytes.Contains(list, []byte(part))
	})
}

// readReached reads the rules of base chains, and of the chains to which they lead. Other chains may refer to things that grow with the
// AppVMs, such as Qubes' set of the addresses that they may send from.
func (t tableOf) readReached(next []string, early bool) error {
	for len(next) > 0 {
		name := next[0]
		next = next[1:]
		c := t.chains[name]
		if c == nil || c.read {
			continue
		}
		c.read = true
		rules, err := t.conn.RulesOf(t.family, t.name, name)
		if err != nil {
			return fmt.Errorf("rules of table %s, chain %s: %w", tableName(t.family, t.name), name, err)
		}
		for i, o := range rules {
			d := decoder{conn: t.conn, chain: c, family: t.family, table: t.name, sets: t.sets, early: early,
				place: place("table "+tableName(t.family, t.name), name, i+1)}
			if err := d.rule(o.Get(unix.NFTA_RULE_EXPRESSIONS)); err != nil {
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

// hooked returns the names of the base chains that are asked for.
func hooked(chains map[string]*chain) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(chains)) {
		if chains[name].hook {
			names = append(names, name)
		}
	}
	return names
}

func tableName(family byte, name string) string {
	return map[byte]string{unix.NFPROTO_IPV4: "ip ", unix.NFPROTO_IPV6: "ip6 ", unix.NFPROTO_INET: "inet "}[family] + name
}
