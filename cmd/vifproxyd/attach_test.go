package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

func TestAppVMsComeAndGo(t *testing.T) {
	onBoth(t, func(s *site) {
		s.start()
		s.attach("early", "10.137.0.11") // before its file
		s.rules("early.10.137.0.11", bank)
		s.rules("late.10.137.0.12", bank) // before its AppVM
		s.opens("early", "http://bank.example/")
		s.untilState("late", control.Waiting)
		s.attach("late", "10.137.0.12")
		s.opens("late", "http://bank.example/")

		// Another netvm and back: the same address on another vif.
		old := s.vifs["late"]
		s.detach("late")
		s.attach("late", "10.137.0.12")
		s.opens("late", "http://bank.example/")
		if vm := s.show()["late"]; !slices.Equal(vm.Interfaces, []string{s.vifs["late"]}) || vm.Interfaces[0] == old {
			t.Errorf("after the switch: %+v", vm)
		}

		// An HVM's pair: either one may go first.
		for _, first := range []int{0, 1} {
			main := s.next("hvm", "10.137.0.13")
			stub := s.next("hvm", "10.137.0.13")
			s.rules("hvm.10.137.0.13", bank)
			s.must(s.Attach(main))
			s.must(s.Attach(stub))
			vifs := []string{main.Vif(), stub.Vif()}
			s.until("both vifs are bound", func() error {
				if vm := s.show()["hvm"]; !slices.Equal(vm.Interfaces, vifs) || vm.State != control.Running {
					return fmt.Errorf("%+v", vm)
				}
				return nil
			})
			for _, vif := range vifs {
				s.must(s.Use(vif))
				s.opens("hvm", "http://bank.example/")
			}
			s.must(s.Detach(vifs[first]))
			s.opens("hvm", "http://bank.example/")
			s.until("one vif is left", func() error {
				if vm := s.show()["hvm"]; !slices.Equal(vm.Interfaces, []string{vifs[1-first]}) {
					return fmt.Errorf("%+v", vm)
				}
				return nil
			})
			s.must(s.Vanish(vifs[1-first]))
			s.untilState("hvm", control.Waiting)
			s.removeRules("hvm.10.137.0.13")
		}

		s.detach("early")
		s.must(s.Vanish(s.vifs["late"]))
		s.untilState("early", control.Waiting)
		s.untilState("late", control.Waiting)
		s.until("all processes are gone", func() error {
			if pids := s.proxies(); len(pids) > 0 {
				return fmt.Errorf("%v", pids)
			}
			return nil
		})
		if strings.Contains(s.ruleset(), "10.137.0.11") && s.Ruleset == lab.R42 {
			t.Errorf("a trace of early is left:\n%s", s.ruleset())
		}
		s.stop()
	})
}

func TestHalfAnAttachIsNoAppVM(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("slow.10.137.0.11", bank)
		s.start()
		vm := s.next("slow", "10.137.0.11")
		for _, step := range []lab.Step{lab.Created, lab.Fenced, lab.Up, lab.Routed} {
			s.must(s.AttachUpTo(vm, step))
			s.update()
			if vm := s.show()["slow"]; vm.State != control.Waiting {
				t.Errorf("after step %d: %+v", step, vm)
			}
		}
		s.must(s.Attach(vm))
		s.opens("slow", "http://bank.example/")
		s.stop()
	})
}

func TestHundredAppVMsAtOnce(t *testing.T) {
	onBoth(t, func(s *site) {
		const n = 100
		s.start()
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf("vm%d", i)
			ip := fmt.Sprintf("10.137.%d.%d", i/50, 10+i%50)
			s.rules(names[i]+"."+ip, fmt.Sprintf(`^site%d\.example$`, i))
			s.attach(names[i], ip)
		}
		for i, name := range names {
			s.opens(name, fmt.Sprintf("http://site%d.example/", i))
			s.refuses(name, fmt.Sprintf("http://site%d.example/", (i+1)%n))
		}
		s.update() // all is at rest
		before, rules := s.show(), s.ruleset()
		log := len(s.daemon.log.String())
		s.update()
		after := s.show()
		for name := range before {
			if before[name].PID != after[name].PID || after[name].State != control.Running {
				t.Errorf("%s: %+v, before %+v", name, after[name], before[name])
			}
		}
		if s.ruleset() != rules {
			t.Error("an update with nothing to do changed rules")
		}
		if news := s.daemon.log.String()[log:]; strings.Contains(news, "firewall written") {
			t.Errorf("an update with nothing to do wrote to the firewall:\n%s", news)
		}
		s.stop()
	})
}
