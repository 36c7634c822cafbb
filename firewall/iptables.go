package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// iptBackend is nftables, and one rule more in the chain INPUT of iptables, wherever that chain is.
//
// All that decides who reaches what stands in our own tables, which no flush, delete or restore of iptables touches: nat,
// guard and fence, for IPv4 and IPv6. But a packet must also pass INPUT, whose policy or REJECT stops an AppVM's
// connection to its proxy, and no accept of our own chains overrules that. So the first rule there, the admission, lets
// pass what our nat has translated; it never changes, and nobody is let in by it whom the guard has not let in before.
// If somebody takes it away, AppVMs are shut out until the next look puts it back.
//
// iptables has two variants with a filter of their own each, and a packet passes both: iptables-nft, whose rules are
// nftables', and iptables-legacy. The admission is kept in either.
type iptBackend struct {
	*nftBackend
	named      string // "iptables" if a person asked for it; else String says what the machine has
	admissions []*admission

	here atomic.Bool // there is a chain INPUT, and no table of Qubes
}

// admission is the rule in one variant.
type admission struct {
	inputChain
	log   *slog.Logger
	print string // of the rule as it was right after we wrote it; "" if that is not known
	told  rate.Sometimes
}

// toldAgain is the time between two lines of the log about a program that keeps changing INPUT.
const toldAgain = 10 * time.Second

// inputChain is INPUT of one variant of iptables.
type inputChain interface {
	String() string

	// read lists the rules in their order. It says false if there is no such chain.
	read(ctx context.Context) (rules []inputRule, there bool, err error)

	// write deletes rules that were read, and with admit inserts the admission as the first, in one transaction. It
	// says errOutrun, and has written nothing, if it finds that the chain is another since.
	write(ctx context.Context, gone []inputRule, admit bool) error

	// discardOld removes the chains of older versions, see oldChains.
	discardOld(ctx context.Context) error
}

// inputRule is one rule of INPUT.
type inputRule struct {
	ours   bool   // it has our comment
	print  string // two of the same print are the same rule, with the same content
	handle uint64 // nftables' name of it
}

// admissionComment tells the admission from the rules of others. Rules of older versions have the comment "vifproxy".
const admissionComment = "kept by vifproxyd"

// oldChains are those that vifproxy kept in both variants, with jumps to them from INPUT, OUTPUT and PREROUTING, when
// iptables held all its rules. Each comes before the one that it leads to.
var oldChains = []string{"VIFPROXY", "VIFPROXY-OUT", "VIFPROXY-NO"}

func newIptables(nft *nftBackend, named string) *iptBackend {
	return &iptBackend{nftBackend: nft, named: named, admissions: []*admission{
		{inputChain: &nftInput{nft: nft}, log: nft.log, told: rate.Sometimes{Interval: toldAgain}},
		{inputChain: &legacyInput{log: nft.log, cfg: nft.cfg}, log: nft.log, told: rate.Sometimes{Interval: toldAgain}},
	}}
}

// String implements Backend. It may be called while another method runs.
func (b *iptBackend) String() string {
	if b.named == "iptables" || b.here.Load() {
		return "iptables"
	}
	return "nftables"
}

// Sync implements Backend.
func (b *iptBackend) Sync(ctx context.Context, want State, inForce func()) (writes int, err error) {
	if writes, err = b.nftBackend.Sync(ctx, want, inForce); err != nil {
		return writes, err
	}
	before := b.String()
	if err = b.admit(ctx); errors.Is(ctx.Err(), context.Canceled) {
		err = ctx.Err() // the caller has something newer
	} else if err != nil {
		err = fmt.Errorf("%w: %w", ErrShut, err)
	}
	if now := b.String(); now != before {
		b.log.Info("other rules of this machine decide now who reaches it", "before", before, "now", now)
	}
	return writes, err
}

// admit keeps the admission in both variants.
func (b *iptBackend) admit(ctx context.Context) (err error) {
	here := false
	for _, a := range b.admissions {
		there, e := a.keep(ctx)
		here, err = here || there, errors.Join(err, e)
	}
	qubes, e := b.qubes(ctx)
	b.here.Store(here && !qubes)
	return errors.Join(err, e)
}

// Remove implements Backend. The admission goes first.
func (b *iptBackend) Remove(ctx context.Context) error {
	return errors.Join(b.dismiss(ctx), b.nftBackend.Remove(ctx))
}

// dismiss removes the admission from both variants.
func (b *iptBackend) dismiss(ctx context.Context) (err error) {
	for _, a := range b.admissions {
		err = errors.Join(err, a.dismiss(ctx))
	}
	return err
}

// keep makes the admission the first rule of INPUT, and the only one with its comment.
func (a *admission) keep(ctx context.Context) (there bool, err error) {
	for range attempts {
		rules, there, err := a.read(ctx)
		if err != nil || !there {
			return there, err
		}
		ours := ofOurs(rules)
		if len(ours) == 1 && rules[0].print == a.print {
			return true, nil
		}
		if a.print != "" {
			a.told.Do(func() {
				a.log.Warn("another program has changed the rule that lets AppVMs to their proxies: putting it back", "chain", a)
			})
		}
		a.print = ""
		if err := a.write(ctx, ours, true); errors.Is(err, errOutrun) {
			continue
		} else if err != nil {
			return true, fmt.Errorf("put the rule %q first in %s: %w", admissionComment, a, err)
		}

		// The first is what we wrote unless somebody was faster than this look; then the next finds it in the way.
		if rules, _, err = a.read(ctx); err == nil && len(rules) > 0 && rules[0].ours {
			a.print = rules[0].print
		}
		return true, err
	}
	return true, errBusy
}

func (a *admission) dismiss(ctx context.Context) error {
	a.print = ""
	for range attempts {
		rules, _, err := a.read(ctx)
		if ours := ofOurs(rules); err == nil && len(ours) > 0 {
			err = a.write(ctx, ours, false)
		}
		if errors.Is(err, errOutrun) {
			continue
		} else if err != nil {
			return fmt.Errorf("remove the rule %q from %s: %w", admissionComment, a, err)
		}
		return nil
	}
	return errBusy
}

func ofOurs(rules []inputRule) []inputRule {
	return slices.DeleteFunc(slices.Clone(rules), func(r inputRule) bool { return !r.ours })
}

// inspect notes where the admission is. Of a chain that is not there it notes nothing.
func (a *admission) inspect(ctx context.Context, found *Inspection) error {
	rules, there, err := a.read(ctx)
	if err != nil || !there {
		return err
	}
	place := slices.IndexFunc(rules, func(r inputRule) bool { return r.ours })
	found.note(place >= 0, "the rule %q in %s", admissionComment, a)
	if place > 0 {
		found.note(false, "the first place for the rule %q in %s", admissionComment, a)
	}
	return nil
}
