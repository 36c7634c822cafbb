package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"vifproxy/control"
	"vifproxy/internal/check"
	"vifproxy/internal/display"
	"vifproxy/internal/edit"
	"vifproxy/internal/terminal"
	"vifproxy/rules"
)

// temporary asks the daemon to allow the hosts for a time.
func (g *grant) temporary(ctx context.Context) error {
	what := fmt.Sprintf("allowed for %v", g.o.duration)
	if g.o.dryRun {
		return g.print("would be " + what)
	}
	began := time.Now()
	status, err := g.c.client.Allow(ctx,
		control.Temporary{Name: g.VM, Hosts: g.Hosts, Seconds: g.Seconds})
	if unknown := (*control.DaemonError)(nil); errors.As(err, &unknown) && unknown.Fault == control.Unknown {
		return fmt.Errorf("%w; to be allowed something for a time a VM needs a rule file, also an empty one: NAME.IP in %s", err, g.place.dir)
	}
	if err != nil {
		return err
	}
	g.serves(status, began)
	return g.conclude(ctx, what, true)
}

// change rewrites the file and waits until that is in force. This program writes the file, with the rights of its caller: the daemon
// writes nothing outside of its runtime directory.
func (g *grant) change(ctx context.Context, what string, how func([]byte) ([]byte, error)) error {
	g.noteChanges(how)
	if g.o.dryRun {
		return g.print("would be " + what + " " + terminal.Quote(g.Path))
	}
	if len(g.Lines) > 0 {
		if err := g.write(how); err != nil {
			return err
		}
		if what == "added to" {
			g.findings()
		}
		g.c.warnIfLost(ctx, g.Path, g.place)
	}
	if !g.place.daemons { // nobody to wait for
		return errors.Join(g.print(what+" "+terminal.Quote(g.Path)), g.place.err)
	}
	began := time.Now()
	status, err := g.c.client.Update(ctx)
	if err != nil {
		if printErr := g.print(what + " " + terminal.Quote(g.Path)); printErr != nil {
			return printErr
		}
		return err
	}
	if len(g.Lines)+len(g.TakenBack) > 0 {
		g.serves(status, began)
	}
	err = printRemarks(g.c, g.c.stderr, display.Remarks(status.VMs, func(vm control.VM) bool { return vm.Name == g.VM && vm.InTrouble() }))
	return errors.Join(err, g.conclude(ctx, what+" "+terminal.Quote(g.Path), what == "added to"))
}

// noteChanges notes which hosts a change of the rule file admits or takes away.
func (g *grant) noteChanges(how func([]byte) ([]byte, error)) {
	content, err := edit.Content(g.Path, g.kind)
	if err != nil || len(g.Lines) == 0 {
		return // there is nothing to say, or the change says it
	}
	if content, err = how(content); err != nil {
		return
	}
	if edited, err := rules.ParseFile(g.Path, content); err == nil {
		g.Changes = check.Changes(g.rules.Template, g.file, edited)
	}
}

// serves notes how long a change took to be in force, or why it is not in force: a proxy that does not run serves nobody.
func (g *grant) serves(status control.Status, began time.Time) {
	vm, err := status.VM(g.VM)
	switch {
	case err != nil:
	case vm.State == control.Running && vm.Error != "":
		g.notice = "not taken over: the last good rules serve on"
	case vm.State == control.Running:
		g.InForceMS = milliseconds(began)
	case vm.State == control.Stopped:
		g.notice = fmt.Sprintf("serves nobody: the proxy of %s is stopped; start it with `vifproxyctl start %[1]s`", g.VM)
	case vm.State == control.Waiting:
		g.notice = fmt.Sprintf("serves nobody yet: no AppVM with the address %s is connected", vm.IP)
	default:
		g.notice = fmt.Sprintf("serves nobody: the proxy of %s is in the state %q; see `vifproxyctl show %[1]s`", g.VM, vm.State)
	}
}

// write rewrites the rule file, or makes the first one.
func (g *grant) write(change func([]byte) ([]byte, error)) error {
	err := edit.Write(g.Path, g.kind, change)
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("%w: run as root (sudo)", err)
	}
	return err
}

// findings warns if lines of the file hardly mean what their author meant. Without the warning, a new line below them would look like a
// sign that all is well.
func (g *grant) findings() {
	if found := g.check.Parsed(g.file); len(found) > 0 {
		text := found[0].String()
		if more := len(found) - 1; more > 0 {
			text += fmt.Sprintf("; and %d more: vifproxyctl check %s", more, g.VM)
		}
		g.c.warn("%s", text)
	}
}

func milliseconds(began time.Time) float64 {
	return float64(time.Since(began).Microseconds()) / 1000
}
