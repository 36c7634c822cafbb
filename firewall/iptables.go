package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// iptBackend keeps a chain VIFPROXY in the tables filter and nat, each reached by one tagged jump. It reads
// with iptables -S, and writes with iptables-restore, which replaces the whole chain of one table in one
// transaction, so that hundreds of bindings take as long as one. There is no transaction over both tables:
// each state in between must be safe.
type iptBackend struct {
	log     *slog.Logger
	cfg     Config
	ipt     *iptables.IPTables
	restore string // path of iptables-restore

	synced bool // a Sync succeeded, so that a jump missing at the next was taken away
}

func newIptables(log *slog.Logger, cfg Config, path string) (*iptBackend, error) {
	ipt, err := iptables.New(iptables.Path(path), iptables.Timeout(lockTimeout))
	if err != nil {
		return nil, fmt.Errorf("iptables: %w", err)
	}
	return &iptBackend{log: log, cfg: cfg, ipt: ipt, restore: path + "-restore"}, nil
}

const lockTimeout = 5 // seconds to wait for another iptables to release its lock

func (b *iptBackend) String() string { return "iptables" }

// Foreign chains that lead to ours. The jump must be the first rule there: in INPUT, so that no rule accepts
// before the guard sees a packet, or rejects before a binding accepts it.
var builtin = map[string]string{"filter": "INPUT", "nat": "PREROUTING"}

var jump = strings.Fields("-m comment --comment vifproxy -j VIFPROXY")

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

func (b *iptBackend) Sync(ctx context.Context, want []Binding) (writes int, err error) {
	if err := b.cfg.check(want); err != nil {
		return 0, err
	}
	var accepts, translations []string
	for _, w := range want {
		accepts = append(accepts, b.accept(w))
		translations = append(translations, b.translate(w))
	}
	filter, err := b.read("filter")
	if err != nil {
		return 0, err
	}
	nat, err := b.read("nat")
	if err != nil {
		return 0, err
	}
	if b.synced && !(filter.jumpOK() && nat.jumpOK()) {
		b.log.Warn("the jump to our rules was changed by another program: putting it back")
	}

	// Up: the guard, and a port accepts before nat leads there. What no longer is to be accepted stays until
	// nat does not lead there any more.
	final := append(accepts, b.guard())
	missing, surplus := compare(filter.rules, final)
	guarded := len(filter.rules) > 0 && filter.rules[len(filter.rules)-1] == b.guard()
	if len(missing) > 0 || !guarded || !filter.jumpOK() {
		surplus = slices.DeleteFunc(surplus, func(rule string) bool { return !anyAccept.MatchString(rule) })
		if err := b.write(ctx, filter, append(surplus, final...)); err != nil {
			return writes, err
		}
		writes++
		filter.jumps, filter.first = 1, true
	}
	missingNat, surplusNat := compare(nat.rules, translations)
	if len(missingNat)+len(surplusNat) > 0 || !nat.jumpOK() {
		if err := b.write(ctx, nat, translations); err != nil {
			return writes, err
		}
		writes++
	}
	if len(surplus) > 0 {
		if err := b.write(ctx, filter, final); err != nil {
			return writes, err
		}
		writes++
	}
	b.synced = true
	return writes, nil
}

func (b *iptBackend) Remove(ctx context.Context) error {
	b.synced = false
	for _, table := range []string{"nat", "filter"} { // the guard goes last
		if err := ctx.Err(); err != nil {
			return err
		}
		now, err := b.read(table)
		if err != nil {
			return err
		}
		for range now.jumps {
			if err := b.ipt.Delete(table, builtin[table], jump...); err != nil {
				return fmt.Errorf("iptables: %w", err)
			}
		}
		if err := b.ipt.ClearAndDeleteChain(table, "VIFPROXY"); err != nil {
			return fmt.Errorf("iptables: %w", err)
		}
	}
	return nil
}

// iptTable is what one table holds of ours.
type iptTable struct {
	name  string
	rules []string // of our chain
	jumps int      // how many there are in the foreign chain
	first bool     // the first rule there is a jump
}

func (t iptTable) jumpOK() bool { return t.first && t.jumps == 1 }

func (b *iptBackend) read(table string) (iptTable, error) {
	now := iptTable{name: table}
	rules, err := b.list(table, "VIFPROXY")
	// Status 1 is also how go-iptables' ChainExists tells that there is no such chain: iptables-nft has no
	// better way. If it means something else, writing will fail with the reason.
	var failed *iptables.Error
	if err != nil && !(errors.As(err, &failed) && failed.ExitStatus() == 1) {
		return now, err
	}
	now.rules = rules
	if rules, err = b.list(table, builtin[table]); err != nil {
		return now, err
	}
	ours := "-A " + builtin[table] + " " + strings.Join(jump, " ")
	for i, rule := range rules {
		if rule == ours {
			now.jumps++
			now.first = now.first || i == 0
		}
	}
	return now, nil
}

// list leaves out what -S prints besides rules.
func (b *iptBackend) list(table, chain string) ([]string, error) {
	lines, err := b.ipt.List(table, chain)
	if err != nil {
		return nil, fmt.Errorf("iptables: %w", err)
	}
	return slices.DeleteFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "-A ") }), nil
}

// write replaces the rules of our chain and puts the jump right. The first line of a chain makes it or
// empties it; with --noflush other chains stay as they are.
func (b *iptBackend) write(ctx context.Context, now iptTable, rules []string) error {
	lines := append([]string{"*" + now.name, ":VIFPROXY - [0:0]"}, rules...)
	if !now.jumpOK() {
		words := strings.Join(jump, " ")
		for range now.jumps {
			lines = append(lines, "-D "+builtin[now.name]+" "+words)
		}
		lines = append(lines, "-I "+builtin[now.name]+" 1 "+words)
	}
	lines = append(lines, "COMMIT", "")
	return load(ctx, strings.Join(lines, "\n"), b.restore, "--noflush", "--wait", fmt.Sprint(lockTimeout))
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
