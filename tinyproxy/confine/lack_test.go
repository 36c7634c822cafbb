package confine

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLandlockNotBuiltAndNotSwitchedOn: the two are told from one another, and the remedy keeps the modules that are on.
func TestLandlockNotBuiltAndNotSwitchedOn(t *testing.T) {
	for _, test := range []struct {
		err           error
		modules, qube string
		cause, remedy string
	}{
		{unix.ENOSYS, "capability,yama\n", "", "the kernel was built without it (CONFIG_SECURITY_LANDLOCK)", later()},
		{unix.EOPNOTSUPP, "lockdown,capability,yama,selinux\n", "sys-firewall",
			"the kernel has it, but not switched on (it is not in lsm=)",
			`in dom0: qvm-prefs sys-firewall kernelopts "$(qvm-prefs sys-firewall kernelopts) lsm=landlock,lockdown,yama,selinux", ` +
				"and restart this VM"},
		{unix.EOPNOTSUPP, "", "", "the kernel has it, but not switched on (it is not in lsm=)",
			"add lsm=landlock,lockdown,yama,integrity,selinux,apparmor,bpf to the kernel's command line " +
				"(GRUB_CMDLINE_LINUX in /etc/default/grub), and restart"},
		{unix.EPERM, "", "", "operation not permitted", later()},
	} {
		wrapped := fmt.Errorf("landlock_create_ruleset: %w", test.err)
		got := landlockLack(wrapped, test.modules, test.qube)
		if test.err == unix.EPERM {
			test.cause = wrapped.Error()
		}
		if want := (Lack{"landlock", test.cause, test.remedy, false}); got != want {
			t.Errorf("%v, modules %q:\n%+v\nwant\n%+v", test.err, test.modules, got, want)
		}
	}
}
