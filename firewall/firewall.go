// Package firewall decides which AppVM reaches which proxy, and what proxies reach, by keeping rules in the
// kernel.
//
// Every AppVM connects to the same place, port 8100 of its gateway. Behind it each proxy listens on a port of
// its own, and a Binding says who gets there: packets that come in on this vif, from this address, are sent
// on to this proxy. Nothing else leads to a proxy. The rules have three parts:
//
//   - a nat rule that sends a bound AppVM's connections to port 8100 on to its proxy;
//   - an accept rule, since the firewall VM rejects what AppVMs send to the firewall VM itself;
//   - the guard: a new connection to a port in the range where proxies listen is reset unless a binding
//     allows it. It looks at the SYN flag and not at the connection tracking state, since the tracking entry
//     of an old connection would count a hostile AppVM's new SYN as established, and by then the port may be
//     another's.
//
// The other direction is the fence, see Fence. Open puts it up, before any proxy runs, and it stands until
// Remove.
//
// A connection that is up does not depend on its binding any more (connection tracking keeps the
// translation), so a binding can move to a new proxy, or go, without harm to it; whoever wants it cut ends
// the old proxy.
//
// All of it is kept in tables of our own. What other programs' chains decide besides needs one rule in theirs: in
// Qubes' table, or in the chain INPUT of iptables, see Open.
//
// Backends write the difference between what the kernel holds and what it is to hold. They believe nothing they
// remember unless the kernel says that nobody has changed anything since (nftables counts its transactions; the chain
// INPUT is read at each Sync), so whatever happened in between (another program's flush, a failed Sync, a crash) the next
// Sync sets it right.
package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Binding lets one AppVM, on one vif, reach one proxy.
type Binding struct {
	Vif  string         // interface the AppVM's packets come in on
	Addr netip.Addr     // IPv4 address of the AppVM
	To   netip.AddrPort // IPv4 address and port where its proxy listens
}

func (b Binding) String() string {
	return fmt.Sprintf("%s %s to %s", b.Vif, b.Addr, b.To)
}

// Config is what the rules need to know besides the bindings.
type Config struct {
	ProxyPort           uint16 // the port AppVMs use
	FirstPort, LastPort uint16 // range in which proxies listen, both ends included; guarded
	FirstUID, LastUID   uint32 // uids of proxies, both ends included; fenced
}

// State is what the kernel is to hold.
type State struct {
	Bindings []Binding
	Guarded  []uint16 // ports of proxies that nobody is bound to: they start, or finish their connections
	Fence    Fence
}

// ErrUnfenced is in the error of a Sync after which the fence may not stand as it should: no proxy may run then.
var ErrUnfenced = errors.New("the fence around proxies does not stand")

// ErrShut is in the error of a Sync after which all is in force, and the fence stands, but the chain INPUT of iptables may
// still shut AppVMs out from their proxies.
var ErrShut = errors.New("iptables may shut AppVMs out from their proxies")

// Backend keeps the kernel's rules equal to a State. Its methods must not be called concurrently.
type Backend interface {
	// String names what decides on this machine who reaches the firewall VM: nftables, or the chain INPUT of iptables.
	String() string

	// Sync makes the kernel hold exactly want, and repairs the rules around it where somebody changed them.
	// It returns how many writes that took: elements, and transactions of a repair; 0 if nothing differed.
	// What it writes into the chain INPUT of iptables is not counted. A binding
	// whose To changed moves without a moment in which the AppVM is locked out. If want has something that cannot be,
	// such as the same vif and address twice, nothing is written. After an error the kernel holds some state between the
	// old and the new; call Sync again.
	//
	// It calls inForce once, unless it fails before, as soon as connections that are made from then on to port 8100
	// go where want says. What may be left to take away then is the leave for AppVMs to reach their own old proxies. Where
	// want is what the last Sync has written, it may call it before it has looked whether somebody else undid that.
	//
	// If ctx ends after that, Sync may leave the rest to the next one, with the error of ctx.
	Sync(ctx context.Context, want State, inForce func()) (writes int, err error)

	// Refused returns how many packets of each uid the fence has refused since Open: one for each attempt to
	// connect, as a rule. Where rules are loaded anew, a few may go uncounted.
	Refused(ctx context.Context) (map[uint32]uint64, error)

	// Remove takes everything of ours out of the kernel. What is gone already is no error.
	Remove(ctx context.Context) error
}

// once is f for the first call, and nothing after that: a Sync may take more than one attempt.
func once(f func()) func() {
	return func() {
		f()
		f = func() {}
	}
}

// Open puts up the guard and the fence without any binding, so that whatever an earlier run left leads nowhere once Open
// returns, and takes leftovers away.
//
// All kinds keep our own tables of nftables and, if Qubes (R4.2 and later) has its user chain for it, a rule there.
// "iptables" and "auto" also keep one in the chain INPUT of iptables wherever there is that chain, now or later;
// "nftables" leaves it alone.
//
// It fails if the kernel has no nftables or the fence cannot be put up. That a chain of others cannot be written shuts
// AppVMs out and lets nobody in: it is a warning here, and the error of the next Sync.
func Open(ctx context.Context, log *slog.Logger, kind string, cfg Config) (Backend, error) {
	if cfg.ProxyPort == 0 || cfg.FirstPort == 0 || cfg.FirstPort > cfg.LastPort ||
		cfg.FirstPort <= cfg.ProxyPort && cfg.ProxyPort <= cfg.LastPort {
		return nil, fmt.Errorf("firewall: port %d for AppVMs and ports %d-%d for proxies: "+
			"need a port, and a range without it", cfg.ProxyPort, cfg.FirstPort, cfg.LastPort)
	}
	if cfg.FirstUID == 0 || cfg.FirstUID > cfg.LastUID {
		return nil, fmt.Errorf("firewall: uids %d-%d of proxies: need a range without root", cfg.FirstUID, cfg.LastUID)
	}
	if !slices.Contains([]string{"auto", "nftables", "iptables"}, kind) {
		return nil, fmt.Errorf("firewall: unknown backend %q (use auto, nftables or iptables)", kind)
	}
	return begin(ctx, &nftBackend{log: log, cfg: cfg}, kind)
}

// begin is Open when it is clear what is asked for.
func begin(ctx context.Context, nft *nftBackend, kind string) (Backend, error) {
	log, ipt := nft.log, newIptables(nft, kind)
	_, err := nft.Sync(ctx, State{}, func() {})
	if unsupported(err) {
		err = errNoNftables
	}
	if err != nil {
		return nil, fmt.Errorf("firewall: load rules into an empty state: %w", err)
	}

	// The guard and the fence stand, and stop what leftovers would let through. So failing to remove those is worth a
	// warning but no more.
	for _, a := range ipt.admissions {
		if err := a.discardOld(ctx); err != nil {
			log.Warn("cannot remove leftovers of an earlier run", "err", err)
		}
	}
	var chosen Backend = ipt
	if kind == "nftables" {
		chosen, err = nft, ipt.dismiss(ctx)
	} else {
		err = ipt.admit(ctx)
	}
	if err != nil {
		log.Warn("cannot write the chain INPUT of iptables", "err", err)
	}
	qubes, err := nft.qubes(ctx)
	if err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	_, why := fitting(qubes, chosen.String() == "iptables")
	if kind != "auto" {
		why = "asked for"
	}
	log.Info("firewall chosen", "backend", chosen, "why", why)
	if !qubes && chosen.String() == "nftables" {
		log.Warn("there is neither a chain custom-input in table ip qubes nor a chain INPUT of iptables: using only our own " +
			"tables; other rules must let AppVMs reach the proxies' ports themselves")
	}
	return chosen, nil
}

// find looks beyond PATH, because the PATH of a root shell or service does not always have the sbin folders.
func find(name string) string {
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	return ""
}

// load gives text to a program, which makes one transaction of it.
func load(ctx context.Context, text, path string, args ...string) error {
	if _, err := execute(ctx, text, path, args...); err != nil {
		return fmt.Errorf("load rules with %w", err)
	}
	return nil
}

const (
	programBound = 10 * time.Second // of nft or iptables
	outputBound  = time.Second      // of what it has left behind that holds its output open
)

// execute runs a program, in the network of this thread, and returns what it prints.
func execute(ctx context.Context, stdin, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, programBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = outputBound
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %.1000s", path, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// errNoNftables is the end: without a fence there is no proxy.
var errNoNftables = errors.New("this kernel has no nftables, which keep proxies in (use one with CONFIG_NF_TABLES=y or m, " +
	"as those of Qubes R4.1 and later and of Debian are; if it is a module, `modprobe nf_tables`)")

// fitting names the chains of others that decide on this machine, and says why.
func fitting(qubes, input bool) (kind, why string) {
	switch {
	case qubes:
		return "nftables", "table ip qubes has the chain custom-input"
	case input:
		return "iptables", "iptables has a chain INPUT, and there is no table ip qubes with a chain custom-input"
	}
	return "nftables", "there is no chain INPUT of iptables"
}

// isName is narrower than the kernel's idea of an interface name: both tools read some other characters as
// syntax, as in `vif*` (nft) and `vif+` (iptables), which mean every interface that starts so.
func isName(vif string) bool {
	for i, c := range []byte(vif) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return 0 < len(vif) && len(vif) < 16 // IFNAMSIZ, with the final zero
}

// inOrder is the same bindings in the one order in which equal bindings are equal, or what is wrong with them and must
// not get into a rule.
func (c Config) inOrder(all []Binding) ([]Binding, error) {
	if !slices.IsSortedFunc(all, compareBindings) {
		all = slices.SortedFunc(slices.Values(all), compareBindings)
	}
	for i := range all {
		b := &all[i]
		switch port := b.To.Port(); {
		case !isName(b.Vif):
			return nil, fmt.Errorf("binding of %s: %q is no name of an interface", b.Addr, b.Vif)
		case !b.Addr.Is4() || b.Addr.IsUnspecified():
			return nil, fmt.Errorf("binding on %s: %s is no IPv4 address of an AppVM", b.Vif, b.Addr)
		case !b.To.Addr().Is4() || b.To.Addr().IsUnspecified():
			return nil, fmt.Errorf("binding of %s on %s: %s is no IPv4 address of a proxy", b.Addr, b.Vif, b.To.Addr())
		case port < c.FirstPort || port > c.LastPort:
			return nil, fmt.Errorf("binding of %s on %s: port %d is outside the guarded range %d-%d",
				b.Addr, b.Vif, port, c.FirstPort, c.LastPort)
		case i > 0 && all[i-1].Vif == b.Vif && all[i-1].Addr == b.Addr:
			return nil, fmt.Errorf("two bindings of %s on %s", b.Addr, b.Vif)
		}
	}
	return all, nil
}

// compareBindings makes neighbours of those of the same address and vif.
func compareBindings(a, b Binding) int {
	if order := a.Addr.Compare(b.Addr); order != 0 { // as a rule
		return order
	}
	return cmp.Or(strings.Compare(a.Vif, b.Vif), a.To.Compare(b.To))
}
