package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-iptables/iptables"
)

// iptBackend keeps a chain VIFPROXY in the tables filter and nat, and the fence in two more chains of filter,
// of IPv6 too. One tagged jump leads to each of the first three. It reads with iptables-save, all tables at a time,
// and writes with iptables-restore, which replaces whole chains of one table in one transaction, so that hundreds of
// bindings take as long as one; the library has neither. There is no transaction over several tables: each state
// in between must be safe.
//
// A switch-over waits for this, so it takes as few programs as it can: both readers side by side, and one writer
// until it is in force. That one deletes nothing if it can do without. For where iptables is nftables underneath, a
// program that has deleted a rule ends only when no CPU uses that any more, some 20 ms later (nft_rcv_nl_event in
// net/netfilter/nf_tables_api.c).
type iptBackend struct {
	log  *slog.Logger
	cfg  Config
	four program
	six  *program // nil where the kernel has no IPv6

	synced bool // a Sync succeeded, so that a jump missing at the next was taken away
}

// program is iptables, or ip6tables, and what its rules have counted.
type program struct {
	path    string
	lib     *iptables.IPTables
	refused refusals
}

func newIptables(log *slog.Logger, cfg Config, path string) (*iptBackend, error) {
	b := &iptBackend{log: log, cfg: cfg, four: program{path: path}}
	var err error
	b.four.lib, err = iptables.New(iptables.Path(path), iptables.Timeout(lockTimeout))
	if err == nil && hasIPv6() {
		name := strings.Replace(filepath.Base(path), "iptables", "ip6tables", 1)
		b.six = &program{path: filepath.Join(filepath.Dir(path), name)}
		b.six.lib, err = iptables.New(iptables.IPFamily(iptables.ProtocolIPv6), iptables.Path(b.six.path),
			iptables.Timeout(lockTimeout))
	}
	if err == nil {
		err = usable(path)
	}
	if err == nil && b.six != nil {
		err = usable(b.six.path)
	}
	if err != nil {
		return nil, fmt.Errorf("iptables: %w", err)
	}
	return b, nil
}

const lockTimeout = 5 // seconds to wait for another iptables to release its lock

func (b *iptBackend) String() string { return "iptables" }

// Rules are compared as text. These are what iptables -S prints, of all versions and both variants.

func (b *iptBackend) guard() string {
	return fmt.Sprintf("-A VIFPROXY -p tcp -m tcp --dport %d:%d --tcp-flags SYN,ACK SYN "+
		"-j REJECT --reject-with tcp-reset", b.cfg.FirstPort, b.cfg.LastPort)
}

func (b *iptBackend) accept(w Binding) string {
	return fmt.Sprintf("-A VIFPROXY -s %s/32 -d %s/32 -i %s -p tcp -m tcp --dport %d -j ACCEPT",
		w.Addr, w.To.Addr(), w.Vif, w.To.Port())
}

var anyAccept = regexp.MustCompile(
	`^-A VIFPROXY -s [0-9.]+/32 -d [0-9.]+/32 -i [^ "]+ -p tcp -m tcp --dport [0-9]+ -j ACCEPT$`)

func (b *iptBackend) translate(w Binding) string {
	return fmt.Sprintf("-A VIFPROXY -s %s/32 -i %s -p tcp -m tcp --dport %d -m addrtype --dst-type LOCAL "+
		"-j DNAT --to-destination %s", w.Addr, w.Vif, b.cfg.ProxyPort, w.To)
}

func (b *iptBackend) Sync(ctx context.Context, want State, inForce func()) (writes int, err error) {
	if err := b.cfg.check(want.Bindings); err != nil {
		return 0, err
	}
	if want.Fence, err = b.cfg.normal(want.Fence); err != nil {
		return 0, err
	}
	inForce = once(inForce)
	for range iptAttempts { // what was read may be gone when it is written to, as others do not lock us out
		var n int
		n, err = b.write(ctx, want, inForce)
		if writes += n; err == nil || ctx.Err() != nil {
			break
		}
	}
	return writes, err
}

// iptAttempts bounds how often a Sync reads again because a write has failed.
const iptAttempts = 3

// write reads what there is and writes what differs, once.
func (b *iptBackend) write(ctx context.Context, want State, inForce func()) (writes int, err error) {
	six, filter, nat, err := b.readAll(ctx)
	if err != nil {
		return 0, err
	}
	if b.synced && !(six.jumpsOK() && filter.jumpsOK() && nat.jumpsOK()) {
		b.log.Warn("a jump to our rules was changed by another program: putting it back")
	}

	if six != nil {
		if change := six.fence(want.Fence, false); len(change) > 0 || !six.jumpsOK() {
			if err := six.write(ctx, []string{six.transaction(change, nil)}); err != nil {
				return writes, err
			}
			writes++
		}
	}
	up, down := b.steps(filter, nat, want)
	if err := filter.write(ctx, up); err != nil {
		return writes, err
	}
	writes += len(up)
	inForce()
	b.synced = true
	if len(down) == 0 {
		return writes, nil
	}
	select {
	case <-time.After(restPause):
	case <-ctx.Done():
		return writes, ctx.Err()
	}
	if err := filter.write(context.WithoutCancel(ctx), down); err != nil {
		return writes, err
	}
	return writes + len(down), nil
}

// restPause is how long what is left to take away waits for another Sync, which then takes away all: whoever changes
// rules often has no program that deletes in his way. A variable, so that tests need not wait.
var restPause = 150 * time.Millisecond

// fence is which of its chains must change, and to what.
func (t *iptTable) fence(f Fence, four bool) (change map[string][]string) {
	change = make(map[string][]string)
	for chain, rules := range map[string][]string{
		"VIFPROXY-OUT": fenceRules(f, four), "VIFPROXY-NO": refuseRules(f, four),
	} {
		if !t.there[chain] || !slices.Equal(t.rules[chain], rules) {
			change[chain] = rules
		}
	}
	return change
}

// steps are the transactions that lead to what is wanted. Up: the fence, the guard, and a port accepts before nat
// leads there. Down: what no longer is to be accepted stays until nat does not lead there any more.
func (b *iptBackend) steps(filter, nat *iptTable, want State) (up, down []string) {
	var accepts, translations []string
	for _, w := range want.Bindings {
		accepts = append(accepts, b.accept(w))
		translations = append(translations, b.translate(w))
	}

	change := filter.fence(want.Fence, true)
	have, final := filter.rules["VIFPROXY"], append(accepts, b.guard())
	missing, surplus := compare(have, final)
	if guarded := len(have) > 0 && have[len(have)-1] == b.guard(); !guarded {
		surplus = slices.DeleteFunc(surplus, func(rule string) bool { return !anyAccept.MatchString(rule) })
		change["VIFPROXY"], missing = append(surplus, final...), nil
	}
	if len(change)+len(missing) > 0 || !filter.jumpsOK() {
		up = append(up, filter.transaction(change, missing))
	}

	exact := map[string][]string{"VIFPROXY": translations}
	newNat, oldNat := compare(nat.rules["VIFPROXY"], translations)
	covered := make(map[string]bool) // by a rule that will come first
	for _, rule := range newNat {
		covered[packets(rule)] = true
	}
	uncovered := func(rule string) bool { return !covered[packets(rule)] }
	switch {
	case !nat.there["VIFPROXY"] || slices.ContainsFunc(oldNat, uncovered):
		up = append(up, nat.transaction(exact, nil))
	case len(newNat) > 0 || !nat.jumpsOK():
		up = append(up, nat.transaction(nil, newNat))
		if len(oldNat) > 0 {
			down = append(down, nat.transaction(exact, nil))
		}
	}
	if len(surplus) > 0 {
		down = append(down, filter.transaction(map[string][]string{"VIFPROXY": final}, nil))
	}
	return up, down
}

// packets is which packets a rule of ours translates.
func packets(translation string) string {
	match, _, _ := strings.Cut(translation, " -j ")
	return match
}

// Refused implements Backend.
func (b *iptBackend) Refused(ctx context.Context) (map[uint32]uint64, error) {
	six, filter, _, err := b.readAll(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[uint32]uint64)
	for _, t := range []*iptTable{filter, six} {
		if t == nil {
			continue
		}
		if err := t.count(); err != nil {
			return nil, err
		}
		for uid, n := range t.refused.total {
			all[uid] += n
		}
	}
	return all, nil
}

// Remove implements Backend. The guard and the fence go last.
func (b *iptBackend) Remove(ctx context.Context) error {
	b.synced = false
	six, filter, nat, err := b.readAll(ctx)
	if err != nil {
		return err
	}
	for _, now := range []*iptTable{nat, filter, six} {
		if now == nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, j := range now.jumps {
			chain, rest := j.words()
			for range j.count {
				if err := now.lib.Delete(now.name, chain, strings.Fields(rest)...); err != nil {
					return fmt.Errorf("iptables: %w", err)
				}
			}
		}
		for _, chain := range ourChains { // each before the one it leads to
			if now.there[chain] {
				if err := now.lib.ClearAndDeleteChain(now.name, chain); err != nil {
					return fmt.Errorf("iptables: %w", err)
				}
			}
		}
	}
	return nil
}

var ourChains = []string{"VIFPROXY", "VIFPROXY-OUT", "VIFPROXY-NO"}

// iptTable is what one table holds of ours.
type iptTable struct {
	*program
	name  string
	there map[string]bool     // our chains
	rules map[string][]string // of our chains
	jumps []*iptJump
}

// iptJump leads from a foreign chain to one of ours. It must be the first rule there: in INPUT, so that no rule
// accepts before the guard sees a packet, or rejects before a binding accepts it.
type iptJump struct {
	rule  string
	count int  // how many there are
	first bool // the first rule of the chain is one
}

func (j *iptJump) words() (chain, rest string) {
	chain, rest, _ = strings.Cut(strings.TrimPrefix(j.rule, "-A "), " ")
	return chain, rest
}

func (t *iptTable) jumpsOK() bool {
	return t == nil || !slices.ContainsFunc(t.jumps, func(j *iptJump) bool { return j.count != 1 || !j.first })
}

// readAll reads our tables; that of IPv6 is nil where the kernel has no IPv6.
func (b *iptBackend) readAll(ctx context.Context) (six, filter, nat *iptTable, err error) {
	tagged := func(chain, match, to string) *iptJump {
		return &iptJump{rule: "-A " + chain + match + " -m comment --comment vifproxy -j " + to}
	}
	owners := fmt.Sprintf(" -m owner --uid-owner %d-%d", b.cfg.FirstUID, b.cfg.LastUID)
	filter = &iptTable{program: &b.four, name: "filter",
		jumps: []*iptJump{tagged("INPUT", "", "VIFPROXY"), tagged("OUTPUT", owners, "VIFPROXY-OUT")}}
	nat = &iptTable{program: &b.four, name: "nat",
		jumps: []*iptJump{tagged("PREROUTING", "", "VIFPROXY")}}
	tables := []*iptTable{filter, nat}
	texts := map[*program]func() (string, error){&b.four: begin(ctx, "", b.four.path+"-save")}
	if b.six != nil {
		six = &iptTable{program: b.six, name: "filter",
			jumps: []*iptJump{tagged("OUTPUT", owners, "VIFPROXY-OUT")}}
		tables = append(tables, six)
		texts[b.six] = begin(ctx, "", b.six.path+"-save")
	}
	for p, end := range texts {
		text, e := end()
		for _, t := range tables {
			if t.program == p && e == nil {
				e = t.parse(text)
			}
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("iptables: read tables: %w", e))
		}
	}
	return six, filter, nat, err
}

// hasIPv6 tells whether a process in this thread's network could send IPv6 at all. The file is there unless the
// kernel was built or booted without it.
func hasIPv6() bool {
	_, err := os.Stat("/proc/thread-self/net/if_inet6")
	return err == nil
}

// parse finds what is ours in the output of iptables-save. A table that is not there is empty.
func (t *iptTable) parse(text string) error {
	t.there, t.rules = make(map[string]bool), make(map[string][]string)
	seen := make(map[string]bool)
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		verb, rest, _ := strings.Cut(line, " ")
		chain, _, _ := strings.Cut(rest, " ")
		name, isTable := strings.CutPrefix(line, "*")
		made, isChain := strings.CutPrefix(verb, ":")
		switch {
		case isTable:
			table = name
		case strings.HasPrefix(line, "# Table `"+t.name+"' is incompatible"): // and left out, with status 0
			return fmt.Errorf("table %s has rules that iptables cannot show; nft list ruleset shows them", t.name)
		case table != t.name:
		case isChain && slices.Contains(ourChains, made):
			t.there[made] = true
		case verb == "-A" && t.there[chain]: // chains are listed before rules
			t.rules[chain] = append(t.rules[chain], line)
		case verb == "-A":
			for _, j := range t.jumps {
				if line == j.rule {
					j.count++
					j.first = j.first || !seen[chain]
				}
			}
			seen[chain] = true
		}
	}
	return nil
}

// transaction replaces the rules of the given chains of ours, puts more rules first in their chains, and puts the
// jumps right. What follows it in the same write finds them right.
func (t *iptTable) transaction(chains map[string][]string, insert []string) string {
	// The first line of a chain makes it or empties it; with --noflush other chains stay as they are.
	var lines []string
	for _, chain := range ourChains {
		if _, ok := chains[chain]; ok {
			lines = append(lines, ":"+chain+" - [0:0]")
		}
	}
	for _, chain := range ourChains {
		lines = append(lines, chains[chain]...)
	}
	for _, rule := range slices.Backward(insert) {
		lines = append(lines, strings.Replace(rule, "-A ", "-I ", 1))
	}
	for _, j := range t.jumps {
		if j.count == 1 && j.first {
			continue
		}
		chain, rest := j.words()
		for range j.count {
			lines = append(lines, "-D "+chain+" "+rest)
		}
		lines = append(lines, "-I "+chain+" 1 "+rest)
		j.count, j.first = 1, true
	}
	return "*" + t.name + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
}

// write makes transactions, one after the other.
func (t *iptTable) write(ctx context.Context, steps []string) error {
	text := strings.Join(steps, "")
	fence := strings.Contains(text, ":VIFPROXY-NO ")
	if fence {
		if err := t.count(); err != nil {
			return err
		}
	}
	if text == "" {
		return nil
	}
	err := load(ctx, text, t.path+"-restore", "--noflush", "--wait", fmt.Sprint(lockTimeout))
	if err == nil && fence {
		t.refused.last = nil
	}
	return err
}

// compare returns the rules of want that are not in have, and those of have that are not in want or are
// copies.
func compare(have, want []string) (missing, surplus []string) {
	open := make(map[string]bool, len(want))
	for _, rule := range want {
		open[rule] = true
	}
	for _, rule := range have {
		if !open[rule] {
			surplus = append(surplus, rule)
		}
		delete(open, rule)
	}
	return slices.DeleteFunc(slices.Clone(want), func(rule string) bool { return !open[rule] }), surplus
}
