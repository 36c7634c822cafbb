package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// ctl runs vifproxyctl.
func (s *site) ctl(args ...string) (stdout, stderr string, status int) {
	s.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(filepath.Join(programs, "vifproxyctl"), append([]string{"--socket=" + s.socket()}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		s.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// update runs `vifproxyctl update`, which returns when all is done, and must go well.
func (s *site) update() {
	s.Helper()
	if _, errs, status := s.ctl("update"); status != 0 {
		s.Fatalf("update: exit status %d: %s", status, errs)
	}
}

// show is what `vifproxyctl show --json` says, by name. It asks as vifproxyctl does, without a process for each time that a
// test looks.
func (s *site) show() map[string]control.VM {
	s.Helper()
	status, err := control.NewClient(s.socket()).Status(context.Background())
	s.must(err)
	return byName(status.VMs)
}

func byName(vms []control.VM) map[string]control.VM {
	all := map[string]control.VM{}
	for _, vm := range vms {
		all[vm.Name] = vm
	}
	return all
}

func (s *site) untilState(name, state string) control.VM {
	s.Helper()
	var vm control.VM
	s.until(name+" is "+state, func() error {
		if vm = s.show()[name]; vm.State != state {
			return fmt.Errorf("it is %q: %s", vm.State, vm.Error)
		}
		return nil
	})
	return vm
}

// Who finds it among the programs and asks what it is learns that it is not for people.
func TestConfineTellsAPersonWhoseItIs(t *testing.T) {
	out, err := exec.Command(filepath.Join(programs, "vifproxy-confine"), "--help").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "this program is vifproxyd's") {
		t.Errorf("%s, %v", out, err)
	}
}

func TestVerbsOfTheCommandLine(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	if _, errs, status := s.ctl("show"); status != 3 || !strings.Contains(errs, "not running") {
		t.Errorf("without a daemon: exit status %d, %s", status, errs)
	}
	s.rules("work.10.137.0.11", bank)
	s.rules("play.10.137.0.12", shop)
	s.attach("work", "10.137.0.11")
	s.start()
	out, _, _ := s.ctl("show")
	if head := strings.Fields(strings.SplitN(out, "\n", 2)[0]); !slices.Equal(head[:3], []string{"NAME", "STATE", "VIF"}) {
		t.Errorf("show:\n%s", out)
	}
	out, _, _ = s.ctl("show", "--json")
	var vms []control.VM
	err := json.Unmarshal([]byte(out), &vms)
	shown := byName(vms)
	for name, vm := range s.show() {
		if is := shown[name]; is.PID != vm.PID || is.State != vm.State || !is.Since.Equal(vm.Since) {
			t.Errorf("show --json: %v:\n%s\nwant %+v", err, out, vm)
		}
	}

	expect := func(want int, args ...string) {
		t.Helper()
		if out, errs, status := s.ctl(args...); status != want {
			t.Errorf("vifproxyctl %s: exit status %d, want %d:\n%s%s", strings.Join(args, " "), status, want, out, errs)
		}
	}
	expect(0, "stop", "work")
	if vm := s.show()["work"]; vm.State != control.Stopped || vm.PID != 0 {
		t.Errorf("stopped: %+v", vm)
	}
	if err := s.cutOff("work"); err != nil {
		t.Errorf("stopped: %v", err)
	}
	expect(0, "start", "work")
	if err := s.page("work", "http://bank.example/"); err != nil {
		t.Errorf("started: %v", err)
	}
	pid := s.show()["work"].PID
	expect(0, "restart", "work")
	if vm := s.show()["work"]; vm.State != control.Running || vm.PID == pid {
		t.Errorf("restarted: %+v, before pid %d", vm, pid)
	}
	expect(0, "kill-all")
	if pids := s.proxies(); len(pids) > 0 {
		t.Errorf("kill-all left %v", pids)
	}
	expect(0, "kill-all-and-restart")
	if err := s.page("work", "http://bank.example/"); err != nil {
		t.Errorf("after kill-all-and-restart: %v", err)
	}
	expect(1, "restart", "nobody")
	expect(2, "dance")
	s.stop()
}
