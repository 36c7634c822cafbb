//go:build e2e

package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/internal/lab"
)

// miscPost is the unit of Qubes that runs rc.local.
const miscPost = `[Unit]
After=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c '[ ! -x /rw/config/rc.local ] || /rw/config/rc.local'
`

// A firewall VM whose template is without vifproxy.
func TestInstallRW(t *testing.T) {
	m := newMachine(t, lab.R42)
	boot := func() {
		t.Helper()
		m.newRoot(map[string]string{
			marker: "# Qubes\n4.2\n", "/etc/systemd/system/qubes-misc-post.service": miscPost,
			"/etc/systemd/system/multi-user.target.d/qubes.conf": "[Unit]\nWants=qubes-misc-post.service\n",
		})
		m.boot()
	}
	// What is brought into the VM: this directory, and the programs beside it.
	brought := filepath.Join(m.rw(), "brought")
	must(t, os.MkdirAll(filepath.Join(brought, "packaging"), 0o755))
	now, _ := packages(t)
	programs := filepath.Join(filepath.Dir(now.deb), "bin")
	for _, args := range [][]string{
		{"install-rw.sh", "vifproxyd.service", filepath.Join(brought, "packaging")}, {"-r", programs, brought},
	} {
		if out, err := exec.Command("cp", append([]string{"-p"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	const script = "/rw/brought/packaging/install-rw.sh"
	hook := filepath.Join(m.rw(), "config/rc.local")
	read := func() string {
		t.Helper()
		text, err := os.ReadFile(hook)
		must(t, err)
		return string(text)
	}

	m.rule("banking.10.137.0.11", "#: format domains", "bank.example")
	const old = "#!/bin/bash\n# Mine.\ntouch /run/mine\nexit 0\n"
	must(t, os.WriteFile(hook, []byte(old), 0o644))
	boot()
	m.attach("banking", "10.137.0.11")
	if out, err := m.try(script); err == nil || !strings.Contains(out, "has commands in it but is not executable") {
		t.Errorf("with commands in a file that does not run: %v, %s", err, out)
	}
	if read() != old {
		t.Errorf("rc.local:\n%s", read())
	}
	must(t, os.Chmod(hook, 0o755))
	m.run("sh", "-c", "umask 077; "+script)
	m.served("banking", "bank.example", "shop.example")
	// Services of qrexec, whose answer is for the daemon to give.
	out, err := m.try("env", "QREXEC_REMOTE_DOMAIN=banking", "QREXEC_SERVICE_ARGUMENT=shop.example", "/etc/qubes-rpc/vifproxy.Allow")
	if err != nil || out != "shop.example is allowed for 10 minutes\n" {
		t.Errorf("vifproxy.Allow: %v, %s", err, out)
	}
	m.run("vifproxyctl", "deny", "banking", "shop.example")
	m.halt()

	// From now on it is there at every start, and so is what was there before.
	boot()
	m.served("banking", "bank.example", "shop.example")
	m.run("test", "-e", "/run/mine")
	hooked, pid := read(), m.property("MainPID")
	m.run("vifproxyctl", "stop", "banking")
	m.run(script)
	if read() != hooked {
		t.Errorf("another installation makes of rc.local\n%s\nbefore\n%s", read(), hooked)
	}
	if m.property("MainPID") == pid {
		t.Error("another installation leaves the old program running")
	}
	m.staysStopped("banking")
	m.run("vifproxyctl", "start", "banking")
	m.served("banking", "bank.example", "shop.example")
	if out := m.run("vifproxyctl", "show"); !strings.Contains(out, "running") {
		t.Errorf("vifproxyctl show: %s", out)
	}

	m.run(script, "uninstall")
	m.nothingLeft()
	gone := func() {
		t.Helper()
		if out := m.run("find", "/run", "/usr", "/etc", "/rw", "-xdev", "-name", "*vifproxy*"); out != "" {
			t.Errorf("there is still\n%s", out)
		}
	}
	must(t, os.RemoveAll(brought))
	gone()
	if read() != old {
		t.Errorf("rc.local:\n%s", read())
	}
	m.run("test", "-e", "/rw/config/tinyproxy/banking.10.137.0.11")
	m.halt()
	boot()
	m.run("test", "-e", "/run/mine")
	gone()
	m.nothingLeft()
	m.halt()
}

// Where there is no rc.local it is made, and goes again.
func TestInstallRWWithoutHook(t *testing.T) {
	now, _ := packages(t)
	m := newMachine(t, lab.R42)
	m.newRoot(nil)
	m.boot()
	for _, file := range []string{"install-rw.sh", "vifproxyd.service"} {
		m.run("mkdir", "-p", "/root/packaging", "/root/bin")
		m.copy(file, "/root/packaging/"+file)
	}
	install := func(args ...string) (string, error) {
		return m.try(append([]string{"sh", "/root/packaging/install-rw.sh"}, args...)...)
	}
	if out, err := install(); err == nil || !strings.Contains(out, "make build") {
		t.Errorf("without programs: %v, %s", err, out)
	}
	bin := filepath.Join(filepath.Dir(now.deb), "bin")
	for _, program := range []string{"vifproxyd", "vifproxyctl", "vifproxy-confine", "vifproxy-names", "vifproxy-switchboard", "vifproxy-qrexec"} {
		m.copy(filepath.Join(bin, program), "/root/bin/"+program)
		m.run("chmod", "+x", "/root/bin/"+program)
	}
	for range 2 {
		if out, err := install(); err != nil {
			t.Fatalf("%v, %s", err, out)
		}
	}
	if out := m.run("cat", "/rw/config/rc.local"); out != "#!/bin/sh\n/rw/config/vifproxy/start # vifproxy\n" {
		t.Errorf("rc.local:\n%s", out)
	}
	for range 2 {
		if out, err := install("uninstall"); err != nil {
			t.Fatalf("%v, %s", err, out)
		}
	}
	if out := m.run("ls", "/rw/config"); out != "tinyproxy\n" {
		t.Errorf("left in /rw/config:\n%s", out)
	}
	m.nothingLeft()
	m.install(now.deb)
	if out, err := install(); err == nil || !strings.Contains(out, "the package vifproxy is installed") {
		t.Errorf("beside the package: %v, %s", err, out)
	}
	m.halt()
}
