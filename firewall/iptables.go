package firewall

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// iptBackend keeps a chain VIFPROXY in the tables filter and nat, and the fence in two more chains of filter,
// of IPv6 too. One tagged jump leads to each of the first three. It reads with iptables -S, and writes with
// iptables-restore, which replaces whole chains of one table in one transaction, so that hundreds of bindings
// take as long as one. There is no transaction over several tables: each state in between must be safe.
type iptBackend struct {
	log  *slog.Logger
	cfg  Config
	path string // of iptables

	synced  bool                 // a Sync succeeded, so that a jump missing at the next was taken away
	refused map[string]*refusals // by program
}

func newIptables(ctx context.Context, log *slog.Logger, cfg Config, path string) (*iptBackend, error) {
	if _, err := execute(ctx, "", path, "--version"); err != nil {
		return nil, fmt.Errorf("iptables: %w", err)
	}
	return &iptBackend{log: log, cfg: cfg, path: path, refused: make(map[string]*refusals)}, nil
}

const lockTimeout = "5" // seconds to wait for another iptables to release its lock

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

func (b *iptBackend) Sync(ctx context.Context, want State) (writes int, err error) {
	if err := b.cfg.check(want.Bindings); err != nil {
		return 0, err
	}
	if want.Fence, err = b.cfg.normal(want.Fence); err != nil {
		return 0, err
	}
	var accepts, translations []string
	for _, w := range want.Bindings {
		accepts = append(accepts, b.accept(w))
		translations = append(translations, b.translate(w))
	}
	six, filter, nat, err := b.readAll(ctx)
	if err != nil {
		return 0, err
	}
	if b.synced && !(six.jumpsOK() && filter.jumpsOK() && nat.jumpsOK()) {
		b.log.Warn("a jump to our rules was changed by another program: putting it back")
	}

	change := make(map[string][]string)
	keep := func(now *iptTable, chain string, rules []string) {
		if !now.there[chain] || !slices.Equal(now.rules[chain], rules) {
			change[chain] = rules
		}
	}
	if six != nil {
		keep(six, "VIFPROXY-OUT", fenceRules(want.Fence, false))
		keep(six, "VIFPROXY-NO", refuseRules(want.Fence, false))
		if len(change) > 0 || !six.jumpsOK() {
			if err := b.write(ctx, six, change); err != nil {
				return writes, err
			}
			writes++
		}
	}

	// Up: the fence, the guard, and a port accepts before nat leads there. What no longer is to be accepted
	// stays until nat does not lead there any more.
	clear(change)
	keep(filter, "VIFPROXY-OUT", fenceRules(want.Fence, true))
	keep(filter, "VIFPROXY-NO", refuseRules(want.Fence, true))
	have, final := filter.rules["VIFPROXY"], append(accepts, b.guard())
	missing, surplus := compare(have, final)
	if guarded := len(have) > 0 && have[len(have)-1] == b.guard(); len(missing) > 0 || !guarded {
		surplus = slices.DeleteFunc(surplus, func(rule string) bool { return !anyAccept.MatchString(rule) })
		change["VIFPROXY"] = append(surplus, final...)
	}
	if len(change) > 0 || !filter.jumpsOK() {
		if err := b.write(ctx, filter, change); err != nil {
			return writes, err
		}
		writes++
		filter.mended()
	}
	missingNat, surplusNat := compare(nat.rules["VIFPROXY"], translations)
	if len(missingNat)+len(surplusNat) > 0 || !nat.jumpsOK() {
		if err := b.write(ctx, nat, map[string][]string{"VIFPROXY": translations}); err != nil {
			return writes, err
		}
		writes++
	}
	if len(surplus) > 0 {
		if err := b.write(ctx, filter, map[string][]string{"VIFPROXY": final}); err != nil {
			return writes, err
		}
		writes++
	}
	b.synced = true
	return writes, nil
}

// Refused implements Backend.
func (b *iptBackend) Refused(ctx context.Context) (map[uint32]uint64, error) {
	six, filter, _, err := b.readAll(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.count(ctx, six, filter); err != nil {
		return nil, err
	}
	all := make(map[uint32]uint64)
	for _, r := range b.refused {
		for uid, n := range r.total {
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
		var lines []string
		for _, j := range now.jumps {
			for range j.count {
				lines = append(lines, "-D "+strings.TrimPrefix(j.rule, "-A "))
			}
		}
		for _, command := range []string{"-F ", "-X "} {
			for _, chain := range ourChains {
				if now.there[chain] {
					lines = append(lines, command+chain)
				}
			}
		}
		if len(lines) == 0 {
			continue
		}
		if err := b.restore(ctx, now, lines); err != nil {
			return err
		}
	}
	return nil
}

var ourChains = []string{"VIFPROXY", "VIFPROXY-OUT", "VIFPROXY-NO"}

// iptTable is what one table holds of ours.
type iptTable struct {
	path  string // of the program
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

func (t *iptTable) jumpsOK() bool {
	return t == nil || !slices.ContainsFunc(t.jumps, func(j *iptJump) bool { return j.count != 1 || !j.first })
}

// mended follows a write.
func (t *iptTable) mended() {
	for _, j := range t.jumps {
		j.count, j.first = 1, true
	}
}

// readAll reads our tables; that of IPv6 is nil where the kernel has no IPv6.
func (b *iptBackend) readAll(ctx context.Context) (six, filter, nat *iptTable, err error) {
	tagged := func(chain, match, to string) *iptJump {
		return &iptJump{rule: "-A " + chain + match + " -m comment --comment vifproxy -j " + to}
	}
	owners := fmt.Sprintf(" -m owner --uid-owner %d-%d", b.cfg.FirstUID, b.cfg.LastUID)
	filter = &iptTable{path: b.path, name: "filter",
		jumps: []*iptJump{tagged("INPUT", "", "VIFPROXY"), tagged("OUTPUT", owners, "VIFPROXY-OUT")}}
	nat = &iptTable{path: b.path, name: "nat", jumps: []*iptJump{tagged("PREROUTING", "", "VIFPROXY")}}
	tables := []*iptTable{filter, nat}
	if hasIPv6() {
		program := strings.Replace(filepath.Base(b.path), "iptables", "ip6tables", 1)
		six = &iptTable{path: filepath.Join(filepath.Dir(b.path), program), name: "filter",
			jumps: []*iptJump{tagged("OUTPUT", owners, "VIFPROXY-OUT")}}
		tables = append(tables, six)
	}
	for _, t := range tables {
		if err := t.read(ctx); err != nil {
			return nil, nil, nil, fmt.Errorf("iptables: read table %s: %w", t.name, err)
		}
	}
	return six, filter, nat, nil
}

// hasIPv6 tells whether a process in this thread's network could send IPv6 at all. The file is there unless the
// kernel was built or booted without it.
func hasIPv6() bool {
	_, err := os.Stat("/proc/thread-self/net/if_inet6")
	return err == nil
}

func (t *iptTable) read(ctx context.Context) error {
	text, err := execute(ctx, "", t.path, "-w", lockTimeout, "-t", t.name, "-S")
	if err != nil {
		return err
	}
	t.there, t.rules = make(map[string]bool), make(map[string][]string)
	seen := make(map[string]bool)
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		verb, rest, _ := strings.Cut(line, " ")
		chain, _, _ := strings.Cut(rest, " ")
		switch {
		case verb == "-N" && slices.Contains(ourChains, chain):
			t.there[chain] = true
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

// write replaces the rules of the given chains of ours and puts the jumps right.
func (b *iptBackend) write(ctx context.Context, now *iptTable, chains map[string][]string) error {
	if chains["VIFPROXY-NO"] != nil { // it is never empty
		if err := b.count(ctx, now); err != nil {
			return err
		}
	}
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
	for _, j := range now.jumps {
		if j.count == 1 && j.first {
			continue
		}
		chain, rest, _ := strings.Cut(strings.TrimPrefix(j.rule, "-A "), " ")
		for range j.count {
			lines = append(lines, "-D "+chain+" "+rest)
		}
		lines = append(lines, "-I "+chain+" 1 "+rest)
	}
	if err := b.restore(ctx, now, lines); err != nil {
		return err
	}
	if r := b.refused[now.path]; r != nil && chains["VIFPROXY-NO"] != nil {
		r.last = nil
	}
	return nil
}

func (b *iptBackend) restore(ctx context.Context, now *iptTable, lines []string) error {
	text := "*" + now.name + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	return load(ctx, text, now.path+"-restore", "--noflush", "--wait", lockTimeout)
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
