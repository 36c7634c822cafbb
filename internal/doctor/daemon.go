package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"vifproxy/control"
)

// daemon asks vifproxyd for its state, and for how it was started.
func (d *doctor) daemon(ctx context.Context) {
	const check = "daemon"
	status, err := control.NewClient(d.Socket).Status(ctx)
	var notRunning *control.NotRunningError
	var permission *control.PermissionError
	switch {
	case errors.As(err, &notRunning):
		text, remedy := fmt.Sprintf("vifproxyd is not running (%s: %v)", notRunning.Socket, notRunning.Err), "systemctl start vifproxyd"
		if last := d.lastError(ctx); last != "" {
			text, remedy = text+"; its last error: "+last, "correct what the error names, then systemctl restart vifproxyd"
		}
		d.report(check, Wrong, remedy, "%s", text)
	case errors.As(err, &permission):
		d.report(check, Wrong, "run doctor as root", "permission denied on %s", permission.Socket)
	case err != nil:
		d.report(check, Wrong, "journalctl -u vifproxyd", "%v", err)
	}
	if err != nil {
		return
	}
	d.status, d.setup = &status, status.Setup
	user := "root"
	if status.Setup.UID != 0 {
		user = fmt.Sprintf("uid %d, not as root", status.Setup.UID)
	}
	d.report(check, OK, "", "vifproxyd %s runs since %s, as %s", status.Setup.Version,
		status.Setup.Started.Local().Format("2006-01-02 15:04:05"), user)
	if status.Setup.Version != d.Version {
		d.report(check, Note, "systemctl restart vifproxyd", "vifproxyd is version %s, vifproxyctl %s",
			status.Setup.Version, d.Version)
	}
	for _, problem := range status.Problems {
		d.report(check, Wrong, "journalctl -u vifproxyd", "%s", problem)
	}
	var errs []string
	troubled := map[string][]string{}
	for _, vm := range status.VMs {
		if vm.InTrouble() {
			if troubled[vm.Error] == nil {
				errs = append(errs, vm.Error)
			}
			troubled[vm.Error] = append(troubled[vm.Error], fmt.Sprintf("%s (%s, %s)", vm.Name, vm.IP, vm.State))
		}
	}
	for _, text := range errs { // one of the template's is that of all VMs
		d.report(check, Wrong, "fix what the message says; no restart is needed",
			"%s: %s", strings.Join(troubled[text], ", "), text)
	}
}

// here reports whether this program is in the network namespace of vifproxyd. In another one its links, routes and rules would seem to
// be missing.
func (d *doctor) here() bool {
	own, err := os.Readlink("/proc/self/ns/net")
	theirs, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", d.setup.PID))
	if err != nil || err2 != nil || own == theirs { // only root may read theirs
		return true
	}
	d.report("namespace", Wrong, fmt.Sprintf("nsenter --net=/proc/%d/ns/net vifproxyctl doctor", d.setup.PID),
		"doctor runs in another network namespace than vifproxyd: links, routes and firewall are not looked at")
	return false
}

// lastError returns the last error of vifproxyd in the journal, "" if there is none.
func (d *doctor) lastError(ctx context.Context) string {
	text := run(ctx, "journalctl", "--unit=vifproxyd", "--priority=err", "--lines=1", "--output=cat", "--no-pager", "--quiet")
	return strings.TrimSpace(text)
}
