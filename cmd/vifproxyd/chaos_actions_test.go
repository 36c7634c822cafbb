package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"vifproxy/internal/await"
	"vifproxy/internal/lab"
	"vifproxy/internal/simulate/model"
)

type action struct {
	weight int
	name   string
	do     func(*chaos) string
}

// actions is all that may happen. Each tells the model first what it is going to do. None may choose by what
// it sees of the daemon, or the same seed would not do the same.
var actions = []action{
	{9, "attach", (*chaos).attachOne},
	{4, "detach", (*chaos).detachOne},
	{4, "flap", (*chaos).flap},
	{3, "second vif", (*chaos).secondVif},
	{3, "other netvm", (*chaos).otherNetvm},
	{3, "half attach", (*chaos).halfAttach},
	{14, "edit", (*chaos).edit},
	{8, "add host", (*chaos).addHost},
	{3, "flip tunnels", (*chaos).flipTunnels},
	{6, "bad edit", (*chaos).badEdit},
	{3, "write in place", (*chaos).writeInPlace},
	{3, "write slowly", (*chaos).writeSlowly},
	{3, "link", (*chaos).link},
	{3, "remove", (*chaos).removeOne},
	{3, "rename", (*chaos).rename},
	{3, "same address", (*chaos).sameAddress},
	{4, "feature", (*chaos).editFeature},
	{5, "no feature", (*chaos).removeFeature},
	{2, "bad feature", (*chaos).badFeature},
	{2, "settings", (*chaos).editSettings},
	{3, "only settings", func(c *chaos) string { return c.onlySettings(c.one()) }},
	{2, "half settings", (*chaos).halfSettings},
	{1, "bad settings", (*chaos).badSettings},
	{1, "no settings", (*chaos).removeSettings},
	{1, "garbage in QubesDB", (*chaos).garbage},
	{1, "QubesDB restarts", (*chaos).restartDB},
	{1, "QubesDB is silent", (*chaos).silentDB},
	{1, "QubesDB speaks nonsense", (*chaos).nonsenseDB},
	{6, "template", (*chaos).editTemplate},
	{3, "bad template", (*chaos).badTemplate},
	{2, "write template slowly", (*chaos).writeTemplateSlowly},
	{4, "include", (*chaos).includeShared},
	{5, "shared list", (*chaos).editShared},
	{1, "bad shared list", (*chaos).badShared},
	{1, "write shared list slowly", (*chaos).writeSharedSlowly},
	{2, "link shared list", (*chaos).linkShared},
	{4, "ceiling", (*chaos).editCeiling},
	{1, "bad ceiling", (*chaos).badCeiling},
	{1, "write ceiling slowly", (*chaos).writeCeilingSlowly},
	{2, "directory replaced", (*chaos).replaceDirectory},
	{2, "directory away", (*chaos).directoryAway},
	{3, "directory unreadable", (*chaos).directoryUnreadable},
	{6, "kill proxies", (*chaos).killProxies},
	{4, "kill daemon", func(c *chaos) string { c.end(syscall.SIGKILL); return "" }},
	{2, "stop daemon", func(c *chaos) string { c.end(syscall.SIGTERM); return "" }},
	{9, "start daemon", func(c *chaos) string { c.up(c.rng.IntN(2) == 0); return "" }},
	{3, "hangup", (*chaos).hangUp},
	{3, "restart verb", (*chaos).restartVerb},
	{9, "stop verb", func(c *chaos) string { return c.holdVerb(true) }},
	{4, "start verb", func(c *chaos) string { return c.holdVerb(false) }},
	{1, "kill-all verb", (*chaos).killAllVerb},
	{9, "learn verb", (*chaos).learnVerb},
	{6, "accept", (*chaos).accept},
	{4, "flush firewall", (*chaos).flush},
	{2, "delete the fence", (*chaos).deleteFence},
	{6, "take away a part", (*chaos).takeAway},
	{2, "fight", (*chaos).fight},
	{1, "owned table", (*chaos).ownTable},
	{5, "foreign rules", (*chaos).foreignRules},
	{3, "bar the uplink", (*chaos).barUplink},
	{3, "forget connections", (*chaos).forgetConnections},
	{2, "hasty connections", (*chaos).hasty},
	{8, "lie", (*chaos).lie},
	{2, "truth", func(c *chaos) string { c.truth(); return "" }},
	{2, "resolvers", (*chaos).editResolvers},
	{6, "name server", (*chaos).nameServer},
	{1, "no name server", (*chaos).noNameServer},
	{3, "hosts", (*chaos).editHosts},
	{5, "kill resolver", func(c *chaos) string { return c.hitResolver(syscall.SIGKILL) }},
	{1, "stop resolver", func(c *chaos) string { return c.hitResolver(syscall.SIGSTOP) }},
	{6, "strange way", (*chaos).strangeWay},
	{2, "stop journal", (*chaos).stopJournal},
	{2, "no inotify", (*chaos).noInotify},
	{3, "no descriptors", (*chaos).noDescriptors},
	{2, "no tasks", (*chaos).noTasks},
	{1, "remove control socket", (*chaos).removeSocket},
	{3, "fill disk", (*chaos).fill},
	{3, "free disk", func(c *chaos) string { c.free(); return "" }},
	{2, "storm", (*chaos).storm},
}

// one picks an AppVM; the stranger is not among them.
func (c *chaos) one() *appVM { return c.court.VMs[c.rng.IntN(len(c.court.VMs)-1)] }

// plug connects an AppVM on a vif of a new domain, up to a step.
func (c *chaos) plug(vm *appVM, last lab.Step) string {
	c.domid++
	at := lab.VM{Name: c.names[vm], IP: vm.IP, DomID: c.domid, Gateway: c.gateway(vm)}
	c.court.change(func(m *model.Model) {
		m.Disturb(vm)
		if last == lab.Complete {
			m.Connect(vm, at.Vif())
		}
		m.Strays(vm, at.Vif(), last == lab.Routed)
	})
	c.must(c.AttachUpTo(at, last))
	c.plugs[vm] = append(c.plugs[vm], at)
	c.route(vm)
	return at.Vif()
}

// route has an AppVM send by a vif that is wholly there, if it has one: the lab only knows that one is there.
func (c *chaos) route(vm *appVM) {
	if n := len(vm.Vifs); n > 0 {
		c.must(c.Use(vm.Vifs[n-1]))
	}
}

// pull takes a vif away.
func (c *chaos) pull(vm *appVM, at lab.VM) string {
	c.court.change(func(m *model.Model) { m.Disconnect(vm, at.Vif()) })
	how, unplug := "orderly", c.Detach
	if c.rng.IntN(3) == 0 {
		how, unplug = "vanishes", c.Vanish
	}
	c.must(unplug(at.Vif()))
	c.plugs[vm] = slices.DeleteFunc(c.plugs[vm], func(o lab.VM) bool { return o == at })
	c.route(vm)
	c.unplugged(vm)
	return at.Vif() + " " + how
}

func (c *chaos) pullAll(vm *appVM) (what string) {
	for _, at := range slices.Clone(c.plugs[vm]) {
		what += " " + c.pull(vm, at)
	}
	return what
}

func (c *chaos) attachOne() string {
	vm := c.one()
	if len(c.plugs[vm]) > 0 {
		return c.names[vm] + " is there"
	}
	return c.names[vm] + " " + c.plug(vm, lab.Complete)
}

func (c *chaos) detachOne() string {
	vm := c.one()
	return c.names[vm] + c.pullAll(vm)
}

// flap takes a vif away and brings it back under its old name.
func (c *chaos) flap() string {
	vm := c.one()
	if len(vm.Vifs) == 0 {
		return c.names[vm] + " is not there"
	}
	at := c.plugs[vm][c.rng.IntN(len(c.plugs[vm]))]
	what := c.pull(vm, at)
	c.court.change(func(m *model.Model) { m.Connect(vm, at.Vif()) })
	c.must(c.Attach(at))
	c.plugs[vm] = append(c.plugs[vm], at)
	c.route(vm)
	return c.names[vm] + " " + what
}

// secondVif gives an HVM its second vif, or takes one of the two.
func (c *chaos) secondVif() string {
	vm := c.one()
	plugs := c.plugs[vm]
	switch {
	case len(plugs) == 0:
		return c.names[vm] + " is not there"
	case len(plugs) == 1:
		return c.names[vm] + " comes " + c.plug(vm, lab.Complete)
	}
	at := plugs[c.rng.IntN(len(plugs))]
	if c.rng.IntN(2) == 0 && slices.Contains(vm.Vifs, at.Vif()) {
		c.court.change(func(m *model.Model) { m.Disturb(vm) })
		c.must(c.Use(at.Vif()))
		c.unplugged(vm)
		return c.names[vm] + " uses " + at.Vif()
	}
	return c.names[vm] + " " + c.pull(vm, at)
}

// otherNetvm is what a switch to another netvm and back looks like; the gateway may be another one then.
func (c *chaos) otherNetvm() string {
	vm := c.one()
	what := c.pullAll(vm)
	gateway := lab.Gateway
	if c.rng.IntN(2) == 0 {
		gateway = netip.MustParseAddr("10.138.2.1")
	}
	c.mu.Lock()
	c.gateways[vm] = gateway
	c.mu.Unlock()
	return c.names[vm] + what + " " + c.plug(vm, lab.Complete) + " " + gateway.String()
}

// halfAttach leaves an attach half way, or goes on with one.
func (c *chaos) halfAttach() string {
	vm := c.one()
	for _, at := range c.plugs[vm] {
		if !slices.Contains(vm.Vifs, at.Vif()) {
			c.court.change(func(m *model.Model) { m.Connect(vm, at.Vif()) })
			c.must(c.Attach(at))
			c.route(vm)
			return c.names[vm] + " completes " + at.Vif()
		}
	}
	last := lab.Step(1 + c.rng.IntN(int(lab.Routed)))
	return fmt.Sprintf("%s %s up to step %d", c.names[vm], c.plug(vm, last), last)
}

func (c *chaos) killProxies() string {
	victim, ip := "all", netip.Addr{}
	if c.rng.IntN(3) > 0 {
		vm := c.one()
		victim, ip = c.names[vm], vm.IP
	}
	c.court.change(func(m *model.Model) {
		for _, vm := range m.VMs {
			if victim == "all" || vm.IP == ip {
				m.Disturb(vm)
			}
		}
	})
	c.late = true
	for _, pid := range c.proxies() {
		if victim == "all" || ownerOf(pid) == uidOf(ip) {
			syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it may have ended by itself
			c.until("it is reaped", func() error {
				if syscall.Kill(pid, 0) == nil {
					return fmt.Errorf("pid %d is there", pid)
				}
				return nil
			})
		}
	}
	return victim
}

func ownerOf(pid int) uint32 {
	var stat syscall.Stat_t
	if syscall.Stat(fmt.Sprintf("/proc/%d", pid), &stat) != nil {
		return 0
	}
	return stat.Uid
}

// up starts the daemon.
func (c *chaos) up(wait bool) {
	if !c.court.Down() {
		return
	}
	d := c.launchRead()
	if wait {
		c.until("the daemon is ready", func() error {
			select {
			case <-d.exited:
				c.Fatalf("vifproxyd has ended: %v", d.err)
			default:
			}
			if !d.hasTold("READY=1") {
				return errors.New("no READY=1 yet")
			}
			return nil
		})
	}
	c.running.Go(func() {
		select {
		case <-d.exited:
		case <-c.done:
			return
		}
		c.mu.Lock()
		meant := c.ended[d]
		c.mu.Unlock()
		if !meant {
			c.fail("vifproxyd has ended by itself: %v", d.err)
		}
	})
}

// end ends the daemon, and checks that its proxies end with it, and with SIGTERM all else.
func (c *chaos) end(how syscall.Signal) {
	if c.court.Down() {
		return
	}
	d := c.daemon
	c.mu.Lock()
	c.ended[d] = true
	c.mu.Unlock()
	c.court.change(func(m *model.Model) { m.Disturb() })
	wasReady := d.hasTold("READY=1")
	switch {
	case how == syscall.SIGKILL:
		c.crash()
	case wasReady:
		c.stop()
	default: // it may not have got to its handler of signals
		c.must(d.cmd.Process.Signal(how))
		await.Value(c.T, "the end of vifproxyd", d.exited)
	}
	c.hasEnded(d)
}

// hasEnded follows the end of a daemon.
func (c *chaos) hasEnded(d *running) {
	c.verbs.Wait()
	c.until("no process of ours is left", func() error {
		if pids := c.ours(); len(pids) > 0 {
			return fmt.Errorf("%v", pids)
		}
		return nil
	})
	c.dom0.watched = false
	c.court.change(func(m *model.Model) { m.Ends() })
	c.unplugged(c.court.VMs...)
	c.reader.reads(true)
	await.Value(c.T, "the end of the log", c.reader.over)
	c.noRace(d)
	if strings.Contains(d.log.String(), "event=owned") {
		c.fail("a proxy was said to be owned, and none is")
	}
	c.counts["netlink overflows"] += strings.Count(d.log.String(), "network events were lost")
	c.counts["inotify overflows"] += strings.Count(d.log.String(), "watching the rules again")
	c.before = d.log.takeTail(8 << 10)
}
