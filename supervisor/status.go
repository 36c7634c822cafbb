package supervisor

import (
	"fmt"
	"strings"
	"time"

	"vifproxy/control"
)

// statusNow is what `show` prints. It also keeps since when each AppVM is in its state.
func (s *Supervisor) statusNow(now time.Time) control.Status {
	status := control.Status{Setup: s.Setup, Backend: s.Firewall.String(), Problems: s.troubles.list(), VMs: []control.VM{}}
	for _, refused := range s.inputs.Rules.Refused {
		if refused.Name == "" {
			status.Problems = append(status.Problems, refused.Err.Error())
		}
	}
	since := make(map[string]stateSince, len(s.want))
	for _, d := range s.want {
		row := control.VM{Name: d.Name, IP: d.Addr.String(), Interfaces: append([]string{}, d.Vifs...)}
		s.describe(&row, d, s.vms[d.Addr])
		if d.Addr.IsValid() {
			row.EgressRefused = s.refused[s.Users.UID(d.Addr)]
		}
		key := row.Name + "." + row.IP
		was := s.states[key]
		row.Since, row.Seen = was.since, was.seen
		if was.state != row.State {
			row.Since = now
		}
		if d.connected() {
			row.Gateway, row.Seen = d.Bind.String(), now
		}
		since[key] = stateSince{row.State, row.Since, row.Seen}
		status.VMs = append(status.VMs, row)
	}
	s.states = since
	return status
}

type stateSince struct {
	state       string
	since, seen time.Time
}

func (s *Supervisor) describe(row *control.VM, d *Desired, vm *appVM) {
	if d.Err != nil {
		row.Error = d.Err.Error()
	}
	var failure Failure
	starting := false
	if vm != nil {
		row.Restarts = vm.restarts
		if d.Policy != nil {
			failure = vm.failures[d.Policy.key]
		}
		for _, p := range vm.processes {
			starting = starting || !p.Ready && !p.Dying
		}
	}
	if failure.Err != nil && row.Error == "" {
		row.Error = failure.Err.Error()
	}
	switch {
	case d.Held:
		row.State = control.Stopped
	case len(d.Vifs) == 0 && d.Err == nil:
		row.State = control.Waiting
	case vm != nil && vm.current != nil && vm.current.Ready:
		row.State = control.Running
		row.PID = vm.current.proxy.PID()
		row.Port = int(vm.current.Port)
		row.Confinement = &s.Confined
	case d.Err != nil || failure.Bad:
		row.State = control.Refused
	case failure.Err != nil && !starting:
		row.State = control.Failed
	case s.troubles["firewall"].Err != nil:
		row.State = control.Failed
		row.Error = "firewall: " + s.troubles["firewall"].Err.Error()
	default:
		row.State = control.Starting
	}
}

// summarize is the one line that `systemctl status` shows.
func summarize(status control.Status) string {
	count := map[string]int{}
	var wrong []string
	for _, vm := range status.VMs {
		count[vm.State]++
		if vm.Error != "" {
			wrong = append(wrong, fmt.Sprintf("%s: %s", vm.Name, vm.Error))
		}
	}
	wrong = append(wrong, status.Problems...)
	var parts []string
	for _, state := range control.States {
		if n := count[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	line := "no rule files"
	if len(parts) > 0 {
		line = "AppVMs: " + strings.Join(parts, ", ")
	}
	if len(wrong) > 0 {
		line += "; " + wrong[0]
		if more := len(wrong) - 1; more > 0 {
			line += fmt.Sprintf(" (and %d more, see vifproxyctl show)", more)
		}
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f { // a line for sd_notify(3) and a terminal
			return ' '
		}
		return r
	}, line)
}
