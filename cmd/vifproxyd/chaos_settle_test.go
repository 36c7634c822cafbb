package main

import (
	"context"
	"fmt"
	"sync"
	"syscall"

	"vifproxy/control"
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
	if c.court.down {
		c.up(true)
	}
	c.verbs.Wait()
	if letGo {
		c.court.change(func(m *model) {
			for _, vm := range m.vms {
				m.mayHold(vm, false)
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
	c.until("the state is that of the inputs", func() (err error) {
		if c.broken() {
			return nil
		}
		ctx, cancel := context.WithTimeout(c.Context(), patience)
		defer cancel()
		for _, vm := range c.court.vms {
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
			c.court.change(func(m *model) {
				for _, vm := range m.vms {
					vm.held = map[bool]bool{false: true}
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
		c.court.Lock()
		err = c.court.matches(status)
		c.court.Unlock()
		if err != nil && !c.late {
			c.fail("when the verb had returned: %v", err)
		}
		return err
	})
	if c.broken() {
		return
	}
	c.late, c.thin, c.dom0.watched = false, false, true
	c.counts["settled"]++
	for _, vm := range c.court.vms {
		if !vm.held[false] {
			c.counts["held when settled"]++
		}
	}
	c.awaitNames(status)
	c.court.change(func(m *model) { m.settle() })
	c.gate.Lock()
	defer c.gate.Unlock()
	c.comparePins(c.sweep(status))
	c.countOrigins()
	c.countOutsiders()
	c.compareKernel(status)
	c.until("the files are those of the proxies", func() error { return c.compareFiles(status, false) })
}

// sweep tries every host from every AppVM. It returns what each reaches.
func (c *chaos) sweep(status control.Status) []policy {
	serves := map[string]bool{}
	for _, vm := range status.VMs {
		serves[vm.IP] = vm.State == control.Running
	}
	for _, vm := range c.court.vms {
		serves[vm.ip.String()] = serves[vm.ip.String()] && len(vm.astray) == 0
	}
	seen := make([]policy, len(c.court.vms))
	failed := make([]string, len(c.court.vms))
	var all sync.WaitGroup
	for i, vm := range c.court.vms {
		all.Go(func() {
			for host := range universe {
				switch r := c.try(vm, "http", host, serves[vm.ip.String()]); r.Status {
				case 200:
					seen[i].served = true
					seen[i].permits |= 1 << host
				case 403:
					seen[i].served = true
				default:
					failed[i] += fmt.Sprintf("; %s: status %d, %v", universe[host], r.Status, r.Err)
				}
			}
		})
	}
	all.Wait()
	c.court.Lock()
	defer c.court.Unlock()
	for i, vm := range c.court.vms {
		if len(vm.astray) > 0 {
			continue
		}
		if err := c.court.observe(vm, seen[i]); err != nil {
			c.fail("all is settled, but %v%s", err, failed[i])
		}
	}
	return seen
}
