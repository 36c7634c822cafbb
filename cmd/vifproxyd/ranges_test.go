package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/lab"
)

// One file for a range gives each AppVM of it a proxy of its own, and takes it away with the AppVM.
func TestRange(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("disp.10.138.0.0_16", "#: format domains", "bank.example")
		s.rules("own.10.138.3.5", shop)
		s.start()
		watched := s.watch()
		s.untilTold(watched, 0, "itself", named(events.Watching))
		s.attach("one", "10.138.3.4")
		s.attach("two", "10.138.200.7")
		s.attach("own", "10.138.3.5")
		s.opens("one", "http://bank.example/")
		s.opens("two", "http://bank.example/")
		s.opens("own", "http://shop.example/")
		s.refuses("one", "http://shop.example/")
		s.refuses("own", "http://bank.example/")
		vms := s.show()
		one, two := vms["disp-10.138.3.4"], vms["disp-10.138.200.7"]
		if one.Origin != control.InRange || one.State != control.Running || two.Port == one.Port || len(vms) != 3 {
			s.Errorf("show: %+v", vms)
		}

		// A host that is allowed for one AppVM of the range is allowed for no other. The verbs take its name.
		if out, errs, status := s.ctl("allow", one.Name, "shop.example", "--for=1h"); status != 0 {
			s.Errorf("allow --for: exit status %d:\n%s%s", status, out, errs)
		}
		s.opens("one", "http://shop.example/")
		s.refuses("two", "http://shop.example/")
		if _, errs, status := s.ctl("allow", one.Name, "shop.example"); status != 1 || !strings.Contains(errs, "edit "+one.Path) {
			s.Errorf("allow: exit status %d:\n%s", status, errs)
		}
		if got := s.denied(two.Name)[two.Name].Hosts; len(got) != 1 || got[0].Host != "shop.example" {
			s.Errorf("denied: %+v", got)
		}

		// The next AppVM with that address inherits nothing, and one that has left has left nothing.
		s.detach("one")
		s.until("it is gone", func() error {
			if _, there := s.show()[one.Name]; there {
				return errors.New("show has it")
			}
			return nil
		})
		s.untilTold(watched, 0, "it has left", func(e events.Event) bool { return e.Event == "disconnected" && e.VM == one.Name })
		s.attach("next", "10.138.3.4")
		s.opens("next", "http://bank.example/")
		s.refuses("next", "http://shop.example/")

		// The file changes for all of them; a mistake concerns them, and nobody else.
		s.rules("disp.10.138.0.0_16", "#: format domains", "shop.example")
		s.opens("two", "http://shop.example/")
		s.goes("next", "http://bank.example/")
		s.rules("disp.10.138.0.0_16", "#: format domains", "a b")
		s.told(two.Name, control.Running, "DIR/rules/disp.10.138.0.0_16:2: more than one name in \"a b\" (write one name a line; a comment begins with '#')")
		s.opens("two", "http://shop.example/")

		// A narrower range counts, and two for one range are refused by name.
		s.rules("few.10.138.200.0_24", "#: format domains", "bank.example")
		s.opens("two", "http://bank.example/")
		s.rules("more.10.138.200.0_24", "#: format domains", "bank.example")
		s.says("show", "the range 10.138.200.0/24 is also that of", "few.10.138.200.0_24", "more.10.138.200.0_24")
		s.opens("two", "http://bank.example/")
		s.stop()
	})
}

var disposables = flag.Int("disposables", 24, "how many `AppVMs` come and go in TestDisposables")

// Disposables with random addresses come and go. Each has its own list from its first answer on, from wherever that is, and none has
// that of the one before.
func TestDisposables(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	d, option := s.qubesDB()
	s.rules("disp.10.138.0.0_16", "#: format domains", "bank.example")
	s.start(option, "--qubes-firewall=on")
	list := map[string]string{}
	for i := range *disposables {
		addr := fmt.Sprintf("10.138.%d.%d", 100+rand.IntN(4), 1+rand.IntN(16)) // not the lab's gateway
		vm := fmt.Sprintf("vm%d", i)
		feature := "/vm-config/vifproxy." + vm + "." + addr
		host, other := "http://bank.example/", "http://shop.example/"
		if list[addr] != "" {
			continue // connected
		}
		switch i % 3 {
		case 0:
			d.Firewall(addr, "accept", "action=accept")
		case 1:
			d.Write(feature, "shop.example")
		case 2:
			d.Firewall(addr, "drop", "action=accept dsthost=shop.example proto=tcp dstports=80-80", "action=drop")
		}
		if i%3 > 0 {
			host, other = other, host
		}
		s.attach(vm, addr)
		list[addr] = vm
		// The first answer is that of its own list.
		s.until(vm+" is served", func() error {
			r := s.Get(vm, other)
			if r.Err == nil && r.Status != 403 {
				s.Errorf("%s gets %d for %s", vm, r.Status, other)
			}
			return r.Err
		})
		s.opens(vm, host)
		if len(list) > 4 {
			for addr, vm := range list {
				s.detach(vm)
				d.Remove("/vm-config/vifproxy." + vm + "." + addr)
				d.Remove("/qubes-firewall/" + addr + "/")
				d.Write("/qubes-firewall/"+addr, "")
				delete(list, addr)
				break
			}
		}
	}
	s.until("all that have left are forgotten", func() error {
		connected := 0
		for _, vm := range s.show() {
			if len(vm.Interfaces) > 0 {
				connected++
			} else {
				return fmt.Errorf("%+v", vm)
			}
		}
		if connected != len(list) {
			return fmt.Errorf("%d of %d", connected, len(list))
		}
		return nil
	})
	entries, err := os.ReadDir(s.runDir())
	s.must(err)
	const most = 64 + 8 // logs of AppVMs that have left, and what is the daemon's own
	if len(entries) > len(list)+most {
		s.Errorf("%d connected, and %d entries of the runtime directory", len(list), len(entries))
	}
	s.stop()
}
