package kernel

import (
	"fmt"
	"strings"
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

func TestHandledByOlderKernels(t *testing.T) {
	for abi, want := range map[int]string{
		1: "truncating files (Linux 6.2), TCP ports (Linux 6.7), device ioctls (Linux 6.10), signals (Linux 6.12)",
		4: "device ioctls (Linux 6.10), signals (Linux 6.12)",
		7: "",
		9: "",
	} {
		attr, missing := Handled(abi)
		if got := strings.Join(missing, ", "); got != want {
			t.Errorf("ABI %d: %s", abi, got)
		}
		const write = unix.LANDLOCK_ACCESS_FS_WRITE_FILE
		if (attr.Handled_access_net != 0) != (abi >= 4) || attr.Handled_access_fs&write == 0 {
			t.Errorf("ABI %d: %+v", abi, attr)
		}
	}
}

func TestKernelsThatLetACallPass(t *testing.T) {
	for release, want := range map[string]bool{
		"4.19.0-26-amd64": false, "5.0.0": false, "5.4.293-1.qubes.x86_64": false, "5.5-rc1": true, "5.5.0": true,
		"5.15.189": true, "6.1.0-37-amd64": true, "6.18.44-fc-v657": true, "10.0": true, "": false, "linux": false,
	} {
		if got := canContinueNotified(release); got != want {
			t.Errorf("%q: %t", release, got)
		}
	}
}
