package main

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"vifproxy/control"
)

// This file compares, at settled moments, all that the daemon leaves in the world with what should be there.

// countOrigins asks the origins who was there.
func (c *chaos) countOrigins() {
	for host, name := range universe {
		n, err := c.Reached(name, 0)
		c.must(err)
		if n < c.court.reached[host] || n > c.court.rightful[host] {
			c.fail("%s was reached %d times; %d clients saw it, %d asked for it while it was permitted",
				name, n, c.court.reached[host], c.court.rightful[host])
		}
	}
}

// compareKernel looks at bindings and listening sockets.
func (c *chaos) compareKernel(status control.Status) {
	want := map[binding]bool{}
	sockets, err := c.sampler.listeners()
	c.must(err)
	for _, vm := range status.VMs {
		if vm.State != control.Running {
			continue
		}
		addr := netip.MustParseAddr(vm.IP)
		for _, a := range c.court.VMs {
			if a.IP != addr {
				continue
			}
			to := netip.AddrPortFrom(c.gateway(a), uint16(vm.Port))
			for _, vif := range vm.Interfaces {
				want[binding{vif, addr, to}] = true
			}
			if sockets[to] != uidOf(addr) {
				c.fail("%s: uid %#x listens on %s", vm.Name, sockets[to], to)
			}
		}
	}
	have, err := c.sampler.bindings()
	c.must(err)
	maps.DeleteFunc(have, func(b binding, _ bool) bool { return b.vif == "lo" }) // of a trial that ends
	if !maps.Equal(want, have) {
		c.fail("bindings are %v, want %v", have, want)
	}
}

// compareFiles looks at the runtime directory and at the processes. Besides the serving one an AppVM may
// have older ones that finish their connections, with rules that are permitted now, unless alone says that
// there are none.
func (c *chaos) compareFiles(status control.Status, alone bool) error {
	rows := map[string]control.VM{}
	for _, vm := range status.VMs {
		if vm.State == control.Running {
			vm.Name = c.runsAs(vm)
			rows[vm.Name] = vm
		}
	}
	dirs, err := filepath.Glob(filepath.Join(c.runDir(), "*", "[0-9]*"))
	if err != nil {
		return err
	}
	found := 0
	for _, dir := range dirs {
		vm, ok := rows[filepath.Base(filepath.Dir(dir))]
		port, _ := strconv.Atoi(filepath.Base(dir))
		switch {
		case !ok && !c.isRetired(dir) || alone && port != vm.Port:
			return fmt.Errorf("%s is there", dir)
		case port == vm.Port:
			found++
		default:
			if err := c.permitted(dir); err != nil {
				return err
			}
		}
	}
	if found != len(rows) {
		return fmt.Errorf("files are %q, the proxies %+v", dirs, rows)
	}
	for _, vm := range rows {
		config, err := os.Readlink(filepath.Join(c.runDir(), vm.Name, "config"))
		if want := fmt.Sprintf("%d/config", vm.Port); err != nil || config != want {
			return fmt.Errorf("config of %s leads to %q (%v), want %q", vm.Name, config, err, want)
		}
		pid, err := os.ReadFile(filepath.Join(c.runDir(), vm.Name, "pid"))
		if err != nil || string(pid) != fmt.Sprintln(vm.PID) {
			return fmt.Errorf("pid file of %s: %q (%v), want %d", vm.Name, pid, err, vm.PID)
		}
	}
	pids := c.proxies()
	for _, vm := range rows {
		if !slices.Contains(pids, vm.PID) {
			return fmt.Errorf("%s: process %d is not there", vm.Name, vm.PID)
		}
	}
	if len(pids) > len(dirs) {
		return fmt.Errorf("processes are %v, files %q", pids, dirs)
	}
	return nil
}

// runsAs is the name under which the files of a proxy are. A last good policy keeps the name that it came with,
// also when the file that cannot be used has been renamed.
func (c *chaos) runsAs(row control.VM) string {
	for _, vm := range c.court.VMs {
		for _, name := range c.namesOf(vm) {
			_, err := os.Stat(filepath.Join(c.runDir(), name, strconv.Itoa(row.Port)))
			if row.Error != "" && vm.IP.String() == row.IP && err == nil {
				return name
			}
		}
	}
	return row.Name
}

// isRetired tells whether an AppVM that was renamed has an older process under its old name.
func (c *chaos) isRetired(dir string) bool {
	name := filepath.Base(filepath.Dir(dir))
	for _, vm := range c.court.VMs {
		if names := c.namesOf(vm); slices.Contains(names, name) {
			return len(vm.Vifs) > 0 && !c.court.MayBeNone(vm)
		}
	}
	return false
}

// permitted checks that an older process permits no more than its AppVM may reach.
func (c *chaos) permitted(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "rules"))
	if err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(dir, "config"))
	if err != nil {
		return err
	}
	rules, template := content{Lines: readRules(string(text))}, content{Open: !strings.Contains(string(config), defaultDeny)}
	old := rules.Under(template).Permits
	name := filepath.Base(filepath.Dir(dir))
	for _, vm := range c.court.VMs {
		if slices.Contains(c.namesOf(vm), name) {
			if old&^c.court.May(vm) != 0 {
				return fmt.Errorf("%s still permits %v, and %v are permitted", dir, old, c.court.May(vm))
			}
		}
	}
	return nil
}

var (
	proxyPort = regexp.MustCompile(`\b6[1-4][0-9]{3}\b`)
	asks      = regexp.MustCompile(`\b127\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\.[0-9]+\.[0-9]+ \. ([0-9]+|PORT)\b`) // in the order of their coming
	between   = regexp.MustCompile(`[,{}\n]`)
	refusedBy = regexp.MustCompile(`^[0-9]+ counter$`) // a uid
	pinned    = regexp.MustCompile(`^[0-9]+ \. [0-9.]+ timeout `)
	zoned     = regexp.MustCompile(`^(?:([0-9]+)|127\.[0-9.]+) : [0-9]+$`) // a uid, or such an address: the zone follows from it
)

// state is bindings, rules and `show` as text, but for what is another each time: ports, pids, times, counters, pins and who asks
// from which address.
func (c *chaos) state() string {
	status, err := c.ctl.Status(c.Context())
	c.must(err)
	var all []string
	for _, part := range between.Split(asks.ReplaceAllString(proxyPort.ReplaceAllString(c.ruleset(), "PORT"), "ASKER"), -1) {
		part = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(part), "elements ="))
		if part != "" && !refusedBy.MatchString(part) && !pinned.MatchString(part) {
			all = append(all, zoned.ReplaceAllString(part, "$1 : ZONE"))
		}
	}
	for _, vm := range status.VMs {
		all = append(all, fmt.Sprint(vm.Name, vm.IP, vm.Interfaces, vm.State, vm.Error))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}
