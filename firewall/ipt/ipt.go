// Package ipt keeps nftables' rules, and one rule more in the chain INPUT of iptables.
//
// Concurrency: as firewall.Backend says; String may be called while another method runs.
package ipt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"vifproxy/firewall"
	"vifproxy/firewall/nft"
	"vifproxy/firewall/ruleset"
)

// A Backend is nft's backend, and one rule more in the chain INPUT of iptables, wherever that chain exists.
//
// Everything that decides which AppVM reaches what is in our own tables, for IPv4 and IPv6: nat, guard and fence. No flush, delete
// or restore of iptables touches them. But a packet must also pass INPUT. Its policy, or a REJECT, stops an AppVM's connection to
// its proxy, and no accept of our own chains overrules that. So the first rule there, the admission, accepts what our nat has
// translated, or with a switchboard what comes from a vif to the port that all proxies share. It admits only what the guard has
// already admitted: the guard knows vifs only, so what comes from elsewhere to a service at that port is left to INPUT. If somebody
// takes the admission away, AppVMs are shut out until the next look puts it back.
//
// iptables has two variants, each with a filter of its own, and a packet passes both: iptables-nft, whose rules are nftables',
// and iptables-legacy. The Backend keeps the admission in both.
type Backend struct {
	*nft.Backend
	log        *slog.Logger
	cfg        *firewall.Config
	named      string // "iptables" if a person asked for it; else String says what the machine has
	admissions []*admission

	here atomic.Bool // there is a chain INPUT, and no table of Qubes
}

// An admission is the rule in one variant.
type admission struct {
	inputChain
	log   *slog.Logger
	print string // of the rule, right after we wrote it; "" if that is not known
	told  rate.Sometimes
}

// warnInterval is the time between two lines of the log about a program that keeps changing INPUT.
const warnInterval = 10 * time.Second

// inputChain is INPUT of one variant of iptables.
type inputChain interface {
	String() string

	// read lists the rules in their order. It says false if there is no such chain.
	read(ctx context.Context) (rules []inputRule, there bool, err error)

	// write deletes rules that were read, and with admit inserts the admission as the first, in one transaction. It
	// says ruleset.ErrStale, and has written nothing, if it finds that the chain is another since.
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

// New returns a backend beside the rules that nft keeps. named is "iptables" if a person has asked for it.
func New(rules *nft.Backend, log *slog.Logger, cfg firewall.Config, named string) *Backend {
	return &Backend{Backend: rules, log: log, cfg: &cfg, named: named, admissions: []*admission{
		{inputChain: &nftInput{nft: rules, cfg: &cfg}, log: log, told: rate.Sometimes{Interval: warnInterval}},
		{inputChain: &legacyInput{log: log, cfg: &cfg}, log: log, told: rate.Sometimes{Interval: warnInterval}},
	}}
}

// UseSwitchboard makes the next Sync load the rules for a switchboard.
func (b *Backend) UseSwitchboard() {
	b.cfg.Switchboard = true
	for _, a := range b.admissions {
		a.print = ""
	}
	b.Backend.UseSwitchboard()
}

// String implements Backend. It may be called while another method runs.
func (b *Backend) String() string {
	if b.named == "iptables" || b.here.Load() {
		return "iptables"
	}
	return "nftables"
}

// Sync implements Backend.
func (b *Backend) Sync(ctx context.Context, want firewall.State, inForce func()) (writes int, err error) {
	if writes, err = b.Backend.Sync(ctx, want, inForce); err != nil {
		return writes, err
	}
	before := b.String()
	if err = b.Admit(ctx); errors.Is(ctx.Err(), context.Canceled) {
		err = ctx.Err() // the caller has a newer state
	} else if err != nil {
		err = fmt.Errorf("%w by iptables: %w", firewall.ErrShut, err)
	}
	if now := b.String(); now != before {
		b.log.Info("other rules of this machine decide now who reaches it", "before", before, "now", now)
	}
	return writes, err
}

// Admit keeps the admission in both variants.
func (b *Backend) Admit(ctx context.Context) (err error) {
	here := false
	for _, a := range b.admissions {
		there, e := a.keep(ctx)
		here, err = here || there, errors.Join(err, e)
	}
	qubes, e := b.Qubes(ctx)
	b.here.Store(here && !qubes)
	return errors.Join(err, e)
}

// Remove implements Backend. The admission goes first.
func (b *Backend) Remove(ctx context.Context) error {
	return errors.Join(b.Dismiss(ctx), b.Backend.Remove(ctx))
}

// Dismiss removes the admission from both variants.
func (b *Backend) Dismiss(ctx context.Context) (err error) {
	for _, a := range b.admissions {
		err = errors.Join(err, a.dismiss(ctx))
	}
	return err
}

// keep makes the admission the first rule of INPUT, and the only one with its comment.
func (a *admission) keep(ctx context.Context) (there bool, err error) {
	for range ruleset.Attempts {
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
		if err := a.write(ctx, ours, true); errors.Is(err, ruleset.ErrStale) {
			continue
		} else if err != nil {
			return true, fmt.Errorf("put the rule %q first in %s: %w", firewall.AdmissionComment, a, err)
		}

		// The first rule is the one that we wrote, unless somebody was faster than this look. Then the next look finds theirs in
		// the way.
		if rules, _, err = a.read(ctx); err == nil && len(rules) > 0 && rules[0].ours {
			a.print = rules[0].print
		}
		return true, err
	}
	return true, ruleset.ErrBusy
}

func (a *admission) dismiss(ctx context.Context) error {
	a.print = ""
	for range ruleset.Attempts {
		rules, _, err := a.read(ctx)
		if ours := ofOurs(rules); err == nil && len(ours) > 0 {
			err = a.write(ctx, ours, false)
		}
		if errors.Is(err, ruleset.ErrStale) {
			continue
		} else if err != nil {
			return fmt.Errorf("remove the rule %q from %s: %w", firewall.AdmissionComment, a, err)
		}
		return nil
	}
	return ruleset.ErrBusy
}

func ofOurs(rules []inputRule) []inputRule {
	return slices.DeleteFunc(slices.Clone(rules), func(r inputRule) bool { return !r.ours })
}

// inspect notes where the admission is. It notes nothing about a chain that does not exist.
func (a *admission) inspect(ctx context.Context, found *firewall.Inspection) error {
	rules, there, err := a.read(ctx)
	if err != nil || !there {
		return err
	}
	place := slices.IndexFunc(rules, func(r inputRule) bool { return r.ours })
	found.Note(place >= 0, "the rule %q in %s", firewall.AdmissionComment, a)
	if place > 0 {
		found.Note(false, "the first place for the rule %q in %s", firewall.AdmissionComment, a)
	}
	return nil
}

// InspectInputs looks at the chain INPUT of both variants of iptables.
func (b *Backend) InspectInputs(ctx context.Context, found *firewall.Inspection) (err error) {
	for _, a := range b.admissions {
		err = errors.Join(err, a.inspect(ctx, found))
	}
	return err
}

// DiscardOld removes the chains that older versions kept, from both variants.
func (b *Backend) DiscardOld(ctx context.Context, failed func(error)) {
	for _, a := range b.admissions {
		if err := a.discardOld(ctx); err != nil {
			failed(err)
		}
	}
}
