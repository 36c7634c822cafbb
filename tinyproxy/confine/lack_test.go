package confine

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLandlockNotBuiltNotSwitchedOnAndRefused: the three are told from one another, and the remedy keeps the modules that are on.
func TestLandlockNotBuiltNotSwitchedOnAndRefused(t *testing.T) {
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
		{unix.EPERM, "", "sys-firewall", "a filter of system calls refuses it, as that of a container does", "have the container permit it " +
			`(systemd-nspawn: --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self")`},
		{unix.EINVAL, "", "", "landlock_create_ruleset: invalid argument", later()},
	} {
		wrapped := fmt.Errorf("landlock_create_ruleset: %w", test.err)
		got := landlockLack(wrapped, test.modules, test.qube)
		if want := (Lack{"landlock", test.cause, test.remedy, false}); got != want {
			t.Errorf("%v, modules %q:\n%+v\nwant\n%+v", test.err, test.modules, got, want)
		}
	}
}
