package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/lab"
	"vifproxy/internal/simulate/model"
	"vifproxy/tinyproxy"
)

// This file is what other programs do to the packet filter in the chaos run.

// attempt runs a program in the firewall VM; it may find that there is nothing to do.
func (c *chaos) attempt(command string) {
	args := strings.Fields(command)
	c.Command(c.Context(), args[0], args[1:]...).Run() //nolint:errcheck // as said
}

// isReady reports whether a daemon runs that has its start behind it.
func (c *chaos) isReady() bool { return !c.court.Down() && c.daemon.hasTold("READY=1") }

// update has the daemon look at everything, and reports whether it has.
func (c *chaos) update() bool {
	if !c.isReady() {
		return false
	}
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	_, err := c.ctl.Update(ctx)
	return err == nil
}

func (c *chaos) flush() string {
	what := c.misled()
	c.court.change(func(m *model.Model) { m.Disturb() })
	if c.Ruleset == lab.R42 {
		c.fence.deletes(func() { c.attempt("nft flush ruleset") })
	} else {
		for _, args := range []string{"-F", "-X", "-t nat -F", "-t nat -X"} {
			c.attempt("iptables " + args)
		}
		if c.rng.IntN(2) == 0 {
			c.fence.deletes(func() { c.attempt("nft flush ruleset") })
		}
	}
	c.must(c.LoadRules(c.Context()))
	c.unplugged(c.court.VMs...)
	return what
}

// deleteFence takes the whole fence away, or has another rule stand before it: that opens, until the daemon has read of it.
func (c *chaos) deleteFence() string {
	how := []string{"delete table inet vifproxy", "flush table inet vifproxy", "insert rule inet vifproxy egress accept"}[c.rng.IntN(3)]
	c.court.change(func(m *model.Model) { m.Disturb() })
	what := c.misled()
	c.fence.deletes(func() { c.attempt("nft " + how) })
	return what + how
}

// takeAway takes away one chain, one rule, or what one set holds. That opens nothing, also if the daemon does nothing about it
// for a while.
func (c *chaos) takeAway() string {
	table := []string{"ip vifproxy", "inet vifproxy", "inet vifproxy"}[c.rng.IntN(3)]
	pick, deaf := c.rng.Uint32(), c.rng.IntN(2) == 0
	what := c.misled()
	if c.thin && !c.court.Down() && !c.update() { // a second part is not to go before the first is back
		return what + "not yet"
	}
	out, err := c.Command(c.Context(), "nft", "-a", "list", "table", strings.Fields(table)[0], strings.Fields(table)[1]).Output()
	parts := partsOf(table, string(out))
	if err != nil || len(parts) == 0 {
		return what + "nothing is there"
	}
	c.court.change(func(m *model.Model) { m.Disturb() })
	c.thin = true
	if deaf && !c.court.Down() {
		c.must(c.daemon.cmd.Process.Signal(syscall.SIGSTOP))
	}
	part := parts[pick%uint32(len(parts))]
	c.attempt("nft " + part)
	if deaf && !c.court.Down() {
		c.moment()
		c.must(c.daemon.cmd.Process.Signal(syscall.SIGCONT))
		part += ", and the daemon stands still"
	}
	return what + part
}

// partsOf are the commands that take one part of a table away, as nft -a lists it.
func partsOf(table, list string) (commands []string) {
	chain := ""
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		before, handle, _ := strings.Cut(line, "# handle ")
		switch {
		case len(fields) < 2 || fields[0] == "table":
		case strings.HasSuffix(strings.TrimSpace(before), "{") && (fields[0] == "chain" || fields[0] == "set" || fields[0] == "map"):
			commands = append(commands, fmt.Sprintf("flush %s %s %s", fields[0], table, fields[1]))
			chain = ""
			if fields[0] == "chain" {
				chain = fields[1]
			}
		case chain != "" && handle != "":
			commands = append(commands, fmt.Sprintf("delete rule %s %s handle %s", table, chain, strings.TrimSpace(handle)))
		}
	}
	return commands
}

// fight is a program that undoes a chain of the fence as fast as it can: the daemon ends proxies when it has restored it
// often enough, and nothing opens meanwhile.
func (c *chaos) fight() string {
	chain := &nftables.Chain{
		Table: &nftables.Table{Name: "vifproxy", Family: nftables.TableFamilyINet},
		Name:  []string{"output", "postrouting", "egress", "reach", "others"}[c.rng.IntN(5)],
	}
	lasts := time.Duration(100+c.rng.IntN(1500)) * time.Millisecond
	what := c.misled()
	if c.thin && !c.update() || !c.isReady() {
		return "not now"
	}
	c.court.change(func(m *model.Model) { m.Disturb() })
	c.late, c.thin = true, true
	ctx, cancel := context.WithTimeout(c.Context(), lasts)
	defer cancel()
	return fmt.Sprintf("%s%s, %d times in %v", what, chain.Name, c.undoes(ctx, chain), lasts)
}

// undoes flushes a chain as fast as it can until ctx ends, and returns how often it has.
func (s *site) undoes(ctx context.Context, chain *nftables.Chain) (n int) {
	var conn *nftables.Conn
	err := s.Do(func() (err error) {
		conn, err = nftables.New(nftables.AsLasting())
		return err
	})
	if err != nil {
		s.Error(err)
		return 0
	}
	defer conn.CloseLasting() //nolint:errcheck // nothing is to be done about it
	for ; ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
		conn.FlushChain(chain)
		if conn.Flush() == nil {
			n++
		}
	}
	return n
}

// ownTable has another process own the table of the fence, where nobody else can write then: there is no fence, and no proxy. A resolver
// that ends meanwhile is followed by another one, which has nothing pinned until there is a fence.
func (c *chaos) ownTable() string {
	if !c.isReady() {
		return "not now"
	}
	c.court.change(func(m *model.Model) { m.Disturb() })
	c.late = true
	owner := c.Command(c.Context(), "nft", "-i")
	commands, err := owner.StdinPipe()
	c.must(err)
	c.must(owner.Start())
	begin := time.Now()
	c.fence.deletes(func() {
		// It is added first since there may be none.
		_, err := io.WriteString(commands, "add table inet vifproxy; delete table inet vifproxy; add table inet vifproxy { flags owner; }\n")
		c.must(err)
		c.until("the table is another's", func() error {
			if list := c.inFirewall("nft", "list", "tables"); !strings.Contains(list, "inet vifproxy") {
				return fmt.Errorf("%s", list)
			}
			if list := c.inFirewall("nft", "list", "table", "inet", "vifproxy"); !strings.Contains(list, "flags owner") {
				return fmt.Errorf("%s", list)
			}
			return nil
		})
		begin = time.Now()
		c.until("no proxy runs without a fence", func() error {
			if pids := c.proxies(); len(pids) > 1 { // one waits for the next start
				return fmt.Errorf("%v", pids)
			}
			return nil
		})
	})
	took := time.Since(begin)
	resolvers := func() []int { return c.processes(func(uid uint32) bool { return uid == tinyproxy.NamesUID }) }
	before := resolvers()
	c.hitResolver(syscall.SIGKILL)
	c.until("another resolver runs", func() error {
		if now := resolvers(); !slices.ContainsFunc(now, func(pid int) bool { return !slices.Contains(before, pid) }) {
			return fmt.Errorf("%v, before %v", now, before)
		}
		return nil
	})
	c.until("show says why", func() error {
		status, err := c.ctl.Status(c.Context())
		if err != nil {
			return err
		}
		for _, vm := range status.VMs {
			if vm.State == control.Running || vm.State == control.Failed && !strings.HasPrefix(vm.Error, "firewall: ") {
				return fmt.Errorf("%+v", vm)
			}
		}
		return nil
	})
	c.moment()
	c.must(commands.Close())
	c.must(owner.Wait())
	return fmt.Sprintf("no proxy after %v", took.Round(time.Millisecond))
}

// foreigner is an address that only somebody else's rules know.
var foreigner = netip.MustParseAddr("10.99.0.1")

// foreignRules is another program, or a person, at work in our chains and sets, or beside them.
func (c *chaos) foreignRules() string {
	changes := [][]string{ // the first four disturb nobody
		{"nft add element ip vifproxy bindings { vif9.9 . 10.99.0.1 . 61001 }"},
		{"nft add element ip qubes vifproxy { vif9.9 . 10.99.0.1 . 61001 }"},
		{"nft add chain ip qubes theirs", "nft insert rule ip qubes custom-input counter jump theirs"},
		{"nft add table ip theirs",
			"nft add chain ip theirs output { type nat hook output priority -100 ; }",
			"nft add rule ip theirs output ip daddr 10.139.1.1 udp dport 53 dnat to " + lab.OtherNameServer.String()},
		{"nft delete table ip theirs"},
		{"nft delete table ip vifproxy"},
		{"nft flush set ip vifproxy bindings"},
		{"nft flush chain ip qubes custom-input"},
	}
	if c.Ruleset == lab.R41 {
		changes[0] = append(changes[0], "nft add element ip vifproxy ports { vif9.9 . 10.99.0.1 : 10.138.1.1 . 61001 }")
		changes[6] = []string{"nft flush map ip vifproxy ports"}
		changes[1] = []string{"nft add rule ip filter INPUT meta skuid 77 ct state new drop"} // iptables cannot list it
		changes[2] = []string{"nft add chain ip filter theirs", "nft insert rule ip filter INPUT counter jump theirs"}
		changes = append(changes[:7], []string{"iptables -D INPUT 1"}, []string{"iptables -F OUTPUT"},
			[]string{"iptables -I INPUT -s 10.99.0.1/32 -j DROP"})
	}
	n := c.rng.IntN(len(changes))
	if n >= 4 {
		c.court.change(func(m *model.Model) { m.Disturb() })
	}
	for _, change := range changes[n] {
		c.attempt(change)
	}
	return changes[n][0]
}

// removeUnlisted takes away the rules that iptables cannot list: nothing could be compared with what it lists.
func (c *chaos) removeUnlisted() {
	if c.Ruleset != lab.R41 {
		return
	}
	for line := range strings.Lines(c.inFirewall("nft", "-a", "list", "chain", "ip", "filter", "INPUT")) {
		if rule, handle, _ := strings.Cut(line, "# handle "); strings.Contains(rule, "skuid 77") {
			c.inFirewall("nft", "delete", "rule", "ip", "filter", "INPUT", "handle", strings.TrimSpace(handle))
		}
	}
}

// barUplink is a tunnel's kill switch: nothing of AppVMs is forwarded to the uplink, so no proxy leaves by it either.
func (c *chaos) barUplink() string {
	bar, open := "nft add rule ip qubes custom-forward oifname eth0 drop", "nft flush chain ip qubes custom-forward"
	if c.Ruleset == lab.R41 {
		bar, open = "iptables -I FORWARD -o eth0 -j DROP", "iptables -D FORWARD -o eth0 -j DROP"
	}
	c.court.change(func(m *model.Model) { m.Disturb() })
	c.late, c.naming.since = true, true // name servers are silent meanwhile
	c.attempt(bar)
	known := c.update()
	if known {
		c.court.change(func(m *model.Model) { c.court.barred = true })
		c.counts["uplink barred for sure"]++
	}
	c.moment()
	c.court.change(func(m *model.Model) { c.court.barred = false })
	c.attempt(open)
	return ""
}

// fromVM are the tracked connections that an AppVM has made, or what is tracked of them since its proxy was the next to send.
type fromVM netip.Addr

func (f fromVM) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	vm := netip.Addr(f).String()
	return flow.Forward.SrcIP.String() == vm || flow.Forward.DstIP.String() == vm
}

// forgetConnections deletes what is tracked of an AppVM, as Qubes does. Its tunnel goes on.
func (c *chaos) forgetConnections() string {
	vm := c.one()
	sure := c.certain(vm)
	tunnel := c.dig(vm, sure)
	forget := func() {
		c.must(c.Do(func() error {
			_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, fromVM(vm.IP))
			return err
		}))
	}
	if tunnel == nil {
		c.disturbAlone(vm)
		forget()
		return c.names[vm] + " has no tunnel"
	}
	defer tunnel.Close()
	sure = sure && c.certain(vm)
	if !c.court.Fixed(vm) { // an older process may have the tunnel
		sure = false
		c.disturbAlone(vm)
	}
	forget()
	if c.ping(vm, tunnel, sure) && sure {
		c.counts["tunnels that went on"]++
	}
	return c.names[vm]
}

func (c *chaos) disturbAlone(vm *appVM) { c.court.change(func(m *model.Model) { m.Disturb(vm) }) }

// hasty is an AppVM that opens and closes connections as fast as it can. The others do not notice.
func (c *chaos) hasty() string {
	vm := c.one()
	c.disturbAlone(vm)
	ctx, cancel := context.WithTimeout(c.cable(vm).ctx, time.Second)
	defer cancel()
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for range 50 {
				conn, err := c.Dial(ctx, c.names[vm], "tcp", fmt.Sprintf("%s:%d", c.gateway(vm), lab.ProxyPort))
				if err == nil {
					conn.Close()
				}
			}
		})
	}
	running.Wait()
	return c.names[vm]
}
