package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"vifproxy/control"
	"vifproxy/internal/simulate/model"
)

// settle mends all faults, has the daemon look at everything, and compares all there is with the model. It may let go what
// is held first.
func (c *chaos) settle(letGo bool) {
	c.Helper()
	if c.broken() {
		return
	}
	c.free()
	c.truth()
	c.mendDom0()
	c.reader.reads(true)
	if c.court.Down() {
		c.up(true)
	}
	c.verbs.Wait()
	if letGo {
		c.court.change(func(m *model.Model) {
			for _, vm := range m.VMs {
				m.MayHold(vm, false)
			}
		})
	}
	if c.late {
		c.until("the daemon has heard of it", func() error {
			ctx, cancel := context.WithTimeout(c.Context(), patience)
			defer cancel()
			_, err := c.ctl.Update(ctx)
			return err
		})
	}
	var status control.Status
	var differs error
	defer func() {
		if differs != nil && !c.broken() { // it has differed for too long
			c.court.change(func(m *model.Model) { m.Rest(rowsOf(status)) }) //nolint:errcheck // for the journal: the run has failed
		}
	}()
	c.until("the state is that of the inputs", func() (err error) {
		if c.broken() {
			return nil
		}
		ctx, cancel := context.WithTimeout(c.Context(), patience)
		defer cancel()
		for _, vm := range c.court.VMs {
			if letGo && err == nil {
				err = c.letGo(ctx, vm)
			}
		}
		if err != nil {
			return err
		}
		if status, err = c.ctl.Update(ctx); err != nil {
			return err
		}
		if letGo {
			c.court.change(func(m *model.Model) {
				for _, vm := range m.VMs {
					m.Holds(vm, false)
				}
			})
		}
		if len(status.Problems) > 0 {
			return fmt.Errorf("problems: %q", status.Problems)
		}
		for _, vm := range status.VMs {
			if vm.PID != 0 && syscall.Kill(vm.PID, 0) != nil {
				return fmt.Errorf("%s is gone, and the daemon has not noticed yet", vm.Name)
			}
		}
		c.court.change(func(m *model.Model) {
			if differs = m.Differs(rowsOf(status)); differs != nil && !c.late {
				c.fail("when the verb had returned: %v", m.Rest(rowsOf(status)))
			}
		})
		return differs
	})
	if c.broken() {
		return
	}
	c.late, c.thin, c.dom0.watched = false, false, true
	c.counts["settled"]++
	for _, vm := range c.court.VMs {
		if !vm.Held(false) {
			c.counts["held when settled"]++
		}
	}
	c.awaitNames(status)
	c.court.change(func(m *model.Model) {
		if err := m.Rest(rowsOf(status)); err != nil {
			c.fail("at rest: %v", err)
		}
	})
	c.gate.Lock()
	defer c.gate.Unlock()
	c.comparePins(c.sweep(status))
	c.countOrigins()
	c.countOutsiders()
	c.compareKernel(status)
	c.until("the files are those of the proxies", func() error { return c.compareFiles(status, false) })
}

// rowsOf returns what the model has to know of what `show` says.
func rowsOf(status control.Status) []model.Row {
	rows := []model.Row{}
	for _, vm := range status.VMs {
		rows = append(rows, model.Row{VM: netip.MustParseAddr(vm.IP), Name: vm.Name, Vifs: vm.Interfaces, State: vm.State, Error: vm.Error != ""})
	}
	return rows
}

// sweep tries every host from every AppVM. It returns what each reaches.
func (c *chaos) sweep(status control.Status) []policy {
	serves := map[string]bool{}
	for _, vm := range status.VMs {
		serves[vm.IP] = vm.State == control.Running
	}
	for _, vm := range c.court.VMs {
		serves[vm.IP.String()] = serves[vm.IP.String()] && len(vm.Astray) == 0
	}
	seen := make([]policy, len(c.court.VMs))
	failed := make([]string, len(c.court.VMs))
	var all sync.WaitGroup
	for i, vm := range c.court.VMs {
		all.Go(func() {
			for host := range universe {
				switch r := c.try(vm, "http", host, serves[vm.IP.String()]); r.Status {
				case 200:
					seen[i].Served = true
					seen[i].Permits |= 1 << host
				case 403:
					seen[i].Served = true
				default:
					failed[i] += fmt.Sprintf("; %s: status %d, %v", universe[host], r.Status, r.Err)
				}
			}
		})
	}
	all.Wait()
	c.court.Lock()
	defer c.court.Unlock()
	for i, vm := range c.court.VMs {
		if len(vm.Astray) > 0 {
			continue
		}
		if err := c.court.Saw(vm, seen[i]); err != nil {
			c.fail("all is settled, but %v%s", err, failed[i])
		}
	}
	return seen
}
