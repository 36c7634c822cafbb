package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// iptBackend keeps a chain VIFPROXY in the tables filter and nat, each reached by one tagged jump. Every write is
// a run of the program, so there is no transaction: the order of writes must make each state in between safe.
type iptBackend struct {
	log *slog.Logger
	cfg Config
	ipt *iptables.IPTables

	synced bool // a Sync succeeded, so that what is missing at the next was taken away
}

func newIptables(log *slog.Logger, cfg Config, path string) (*iptBackend, error) {
	ipt, err := iptables.New(iptables.Path(path), iptables.Timeout(5)) // seconds to wait for the xtables lock
	if err != nil {
		return nil, fmt.Errorf("iptables: %w", err)
	}
	return &iptBackend{log: log, cfg: cfg, ipt: ipt}, nil
}

func (b *iptBackend) String() string { return "iptables" }

const ourChain = "VIFPROXY"

// hooks are the foreign chains that lead to ours. The jump must be the first rule there: in INPUT, so that no rule
// accepts before the guard sees a packet or rejects before a binding accepts it.
var hooks = []struct{ table, chain string }{{"filter", "INPUT"}, {"nat", "PREROUTING"}}

var jump = []string{"-m", "comment", "--comment", "vifproxy", "-j", ourChain}

// Rules are compared as text, as `iptables -S` prints them. It prints what this writes, both the variant that is
// nftables underneath and the old one.

func (b *iptBackend) guard() string {
	return fmt.Sprintf("-A VIFPROXY -p tcp -m tcp --dport %d:%d --tcp-flags SYN,ACK SYN "+
		"-j REJECT --reject-with tcp-reset", b.cfg.FirstPort, b.cfg.LastPort)
}

func (b *iptBackend) accept(w Binding) string {
	return fmt.Sprintf("-A VIFPROXY -s %s/32 -d %s/32 -i %s -p tcp -m tcp --dport %d -j ACCEPT",
		w.Addr, w.To.Addr(), w.Vif, w.To.Port())
}

func (b *iptBackend) translate(w Binding) string {
	return fmt.Sprintf("-A VIFPROXY -s %s/32 -i %s -p tcp -m tcp --dport %d -m addrtype --dst-type LOCAL "+
		"-j DNAT --to-destination %s", w.Addr, w.Vif, b.cfg.ProxyPort, w.To)
}

func (b *iptBackend) Sync(ctx context.Context, want []Binding) (writes int, err error) {
	if err := b.cfg.check(want); err != nil {
		return 0, err
	}
	var accepts, translations []string
	for _, w := range want {
		accepts, translations = append(accepts, b.accept(w)), append(translations, b.translate(w))
	}
	s := &session{ctx: ctx, ipt: b.ipt}
	filter, nat := s.ours("filter"), s.ours("nat")

	// The guard comes before everything, and the way to it before any binding.
	if last := len(filter) - 1; last < 0 || filter[last] != b.guard() {
		s.write(b.ipt.Append, "filter", b.guard())
	} else {
		filter = filter[:last]
	}
	for _, hook := range hooks {
		if s.ensureJump(hook.table, hook.chain) && b.synced {
			b.log.Warn("jump to our rules was missing, twice or not first", "table", hook.table, "chain", hook.chain)
		}
	}

	// Up: a port accepts before nat leads there. Down: the other way round. A moved binding has both its rules in
	// nat for a moment; the old one stands first and is in force until it is deleted.
	missing, surplus := compare(filter, accepts)
	missingNat, surplusNat := compare(nat, translations)
	for _, rule := range slices.Backward(missing) { // each before the one before, all before the guard
		s.write(insertFirst(b.ipt), "filter", rule)
	}
	for _, rule := range missingNat {
		s.write(b.ipt.Append, "nat", rule)
	}
	for _, rule := range surplusNat {
		s.remove("nat", rule)
	}
	for _, rule := range surplus {
		s.remove("filter", rule)
	}
	b.synced = b.synced || s.err == nil
	return s.writes, s.err
}

func (b *iptBackend) Remove(ctx context.Context) error {
	b.synced = false
	s := &session{ctx: ctx, ipt: b.ipt}
	for _, hook := range slices.Backward(hooks) { // nat first: the guard goes last
		_, jumps := s.jumps(hook.table, hook.chain)
		for range jumps {
			s.count(b.ipt.Delete(hook.table, hook.chain, jump...))
		}
		if s.err == nil {
			s.count(b.ipt.ClearAndDeleteChain(hook.table, ourChain))
		}
	}
	return s.err
}

// compare returns the rules of want that are not in have, and those of have that are not in want or superfluous
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
	for _, rule := range want {
		if open[rule] {
			missing = append(missing, rule)
		}
	}
	return missing, surplus
}

// session is a series of runs of iptables that ends with the first error: after it, calls do nothing.
type session struct {
	ctx    context.Context
	ipt    *iptables.IPTables
	writes int
	err    error
}

func (s *session) over() bool {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	return s.err != nil
}

func (s *session) count(err error) {
	if err != nil {
		s.err = fmt.Errorf("iptables: %w", err)
		return
	}
	s.writes++
}

// ours lists the rules in our chain of a table, and makes the chain if it is not there.
func (s *session) ours(table string) []string {
	if s.over() {
		return nil
	}
	lines, err := s.ipt.List(table, ourChain)
	if notThere(err) {
		s.count(s.ipt.NewChain(table, ourChain))
	} else if err != nil {
		s.err = fmt.Errorf("iptables: %w", err)
	}
	return rulesOf(ourChain, lines)
}

// notThere reads exit status 1, as go-iptables' own ChainExists does: iptables-nft has no other way to tell that
// there is no such chain. If 1 meant something else, making the chain fails next, with the real reason.
func notThere(err error) bool {
	var failed *iptables.Error
	return errors.As(err, &failed) && failed.ExitStatus() == 1
}

// rulesOf leaves out -N, -P and comments about other variants of iptables.
func rulesOf(chain string, lines []string) []string {
	return slices.DeleteFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "-A "+chain+" ") })
}

// write adds a rule, given as iptables prints it.
func (s *session) write(add func(table, chain string, rule ...string) error, table, rule string) {
	if !s.over() {
		s.count(add(table, ourChain, strings.Fields(rule)[2:]...))
	}
}

func insertFirst(ipt *iptables.IPTables) func(table, chain string, rule ...string) error {
	return func(table, chain string, rule ...string) error { return ipt.Insert(table, chain, 1, rule...) }
}

// remove deletes a rule from our chain. Words of a rule of ours are never quoted; a rule that somebody else put
// there may have quotes, and is deleted by its number instead.
func (s *session) remove(table, rule string) {
	if !strings.ContainsAny(rule, `"\`) {
		s.write(s.ipt.Delete, table, rule)
		return
	}
	if number := slices.Index(s.ours(table), rule) + 1; !s.over() && number > 0 {
		s.count(s.ipt.DeleteById(table, ourChain, number))
	}
}

// jumps counts our jumps in a foreign chain, and tells whether the chain begins with one.
func (s *session) jumps(table, chain string) (first bool, n int) {
	if s.over() {
		return false, 0
	}
	lines, err := s.ipt.List(table, chain)
	if err != nil {
		s.err = fmt.Errorf("iptables: %w", err)
		return false, 0
	}
	ours := "-A " + chain + " " + strings.Join(jump, " ")
	for i, rule := range rulesOf(chain, lines) {
		if rule == ours {
			first = first || i == 0
			n++
		}
	}
	return first, n
}

// ensureJump leaves exactly one jump, as the first rule. Deleting goes by what the rule says, never by number: in a
// foreign chain somebody else may be at work, and the number be another rule's by now. That finds the first copy
// each time, so a wrong one can only be replaced by deleting all: VMs are locked out for these few milliseconds.
func (s *session) ensureJump(table, chain string) (repaired bool) {
	first, n := s.jumps(table, chain)
	if s.over() || first && n == 1 {
		return false
	}
	for range n {
		if !s.over() {
			s.count(s.ipt.Delete(table, chain, jump...))
		}
	}
	if !s.over() {
		s.count(s.ipt.Insert(table, chain, 1, jump...))
	}
	return true
}
