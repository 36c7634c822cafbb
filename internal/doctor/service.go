package doctor

import (
	"context"
	"os"
	"strings"
)

// service checks whether vifproxyd is started at boot: by the package if dom0 has turned the service on for this VM, or by what
// install-rw.sh has put below /rw.
func (d *doctor) service(ctx context.Context) {
	const check, flag, start = "service", "/run/qubes-service/vifproxy", "/rw/config/vifproxy/start"
	const custom, hook = "/run/qubes-service/custom-persist", "/rw/config/rc.local"
	switch {
	case !d.exists("/usr/share/qubes/marker-vm"):
		d.report(check, OK, "", "this is no VM of Qubes OS: no service has to be turned on in dom0")
	case d.exists(start) && d.exists(custom):
		d.report(check, Wrong, "install the package in the template instead",
			"installed below /rw, but with custom-persist nothing there is run (%s)", custom)
	case d.exists(start) && !d.runs(hook, start):
		d.report(check, Wrong, "run install-rw.sh again",
			"installed below /rw, but %s does not run %s", hook, start)
	case d.exists(start):
		d.report(check, OK, "", "installed below /rw and started by %s", hook)
	case d.exists(flag):
		d.report(check, OK, "", "turned on in dom0 (%s)", flag)
	default:
		d.report(check, Wrong, "in dom0: qvm-service "+d.vmName(ctx)+" vifproxy on, and restart this VM",
			"not turned on for this VM in dom0 (there is no %s)", flag)
	}
}

// runs reports whether a script is run and has a line with this command.
func (c Config) runs(script, command string) bool {
	text, err := os.ReadFile(c.Root + script)
	info, err2 := os.Stat(c.Root + script)
	return err == nil && err2 == nil && info.Mode()&0o111 != 0 &&
		strings.Contains("\n"+string(text), "\n"+command+" ")
}

func (d *doctor) vmName(ctx context.Context) string {
	if name := qubesdb(ctx, "/name"); name != "" {
		return name
	}
	return "VM"
}
