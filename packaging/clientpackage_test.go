//go:build e2e

package packaging

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"vifproxy/internal/lab"
)

// clientContents are files that both packages for AppVMs have, apart from documentation.
var clientContents = []string{
	"/etc/xdg/autostart/vifproxy-client.desktop",
	"/usr/bin/vifproxy-client",
	"/usr/bin/vifproxy-unblock",
	"/usr/lib/systemd/system-preset/50-vifproxy-client.preset",
	"/usr/lib/systemd/system/vifproxy-client-setup.service",
	"/usr/lib/systemd/user-preset/50-vifproxy-client.preset",
	"/usr/lib/systemd/user/vifproxy-client.service",
	"/usr/share/man/man1/vifproxy-client.1.gz",
	"/usr/share/man/man1/vifproxy-unblock.1.gz",
}

func TestContentsForAppVMs(t *testing.T) {
	now, _ := packages(t)
	for kind, list := range map[string]*exec.Cmd{
		"deb": exec.Command("sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar t | sed 's/^\.//'`, "sh", now.clientDeb),
		"rpm": exec.Command("rpm", "-qlp", now.clientRPM),
	} {
		out, err := list.Output()
		must(t, err)
		files := slices.DeleteFunc(strings.Fields(string(out)), func(file string) bool {
			return strings.HasSuffix(file, "/") || strings.HasPrefix(file, "/usr/share/doc/") ||
				strings.HasPrefix(file, "/usr/share/licenses/") || strings.HasPrefix(file, "/usr/share/lintian/")
		})
		slices.Sort(files)
		if !slices.Equal(files, clientContents) {
			t.Errorf("the .%s has\n%s\nwant\n%s", kind, strings.Join(files, "\n"), strings.Join(clientContents, "\n"))
		}
	}
}

// Either package for AppVMs enables its units, whose setup works within the unit's restrictions, and takes away what that has written.
func TestThePackageForAppVMs(t *testing.T) {
	now, before := packages(t)
	m := newMachine(t, lab.R42)
	m.newRoot(map[string]string{"/etc/apt/apt.conf.d/01proxy": "Acquire::http::Proxy \"http://mine.example:1/\";\n"})
	m.boot()
	for _, kind := range []struct {
		before, now string
		remove      []string
	}{
		{before.clientDeb, now.clientDeb, []string{"dpkg", "--purge", "vifproxy-client"}},
		{before.clientRPM, now.clientRPM, []string{"rpm", "--erase", "vifproxy-client"}},
	} {
		m.run("touch", "/run/marker") // what is newer than this, the package has made
		m.install(kind.before)
		m.install(kind.now)
		for _, args := range [][]string{{"--system", "is-enabled", "vifproxy-client-setup.service"}, {"--global", "is-enabled", "vifproxy-client.service"}} {
			if out, err := m.try(append([]string{"systemctl"}, args...)...); err != nil || out != "enabled\n" {
				t.Errorf("systemctl %v: %s", args, out)
			}
		}
		m.run("sh", "-c", "mkdir -p /run/qubes-service; touch /run/qubes-service/vifproxy; systemctl start vifproxy-client-setup")
		journal := m.run("journalctl", "--output=cat", "--unit=vifproxy-client-setup")
		if !strings.Contains(journal, "programs of this VM use the proxy") {
			t.Errorf("the journal says\n%s", journal)
		}
		if out := m.run("apt-config", "dump", "Acquire::http::Proxy"); out != "Acquire::http::Proxy \"http://mine.example:1/\";\n" {
			t.Errorf("what a user has said of apt is not in force: %s", out)
		}
		if out := m.run("apt-config", "dump", "Acquire::https::Proxy"); !strings.Contains(out, ":8100/") {
			t.Errorf("apt has %s", out)
		}
		if out := m.run("systemd-run", "--quiet", "--wait", "--pipe", "env"); !strings.Contains(out, "\nhttps_proxy=http://") {
			t.Errorf("a service of the system has\n%s", out)
		}
		if out := m.run("sh", "-lc", "env"); !strings.Contains(out, "https_proxy=http://") {
			t.Errorf("a login shell has\n%s", out)
		}
		if out := m.run("systemd-analyze", "verify", "--man=no", "/usr/lib/systemd/system/vifproxy-client-setup.service"); out != "" {
			t.Errorf("systemd-analyze verify:\n%s", out)
		}
		m.run(kind.remove...)
		if out := m.run("find", "/etc", "/usr", "/run/environment.d", "/run/systemd/system.conf.d", "-newer", "/run/marker", "-name", "*vifproxy*"); out != "" {
			t.Errorf("after %v there is\n%s", kind.remove, out)
		}
		if out, err := m.try("test", "-e", "/etc/firefox/policies/policies.json"); err == nil {
			t.Errorf("after %v there are policies of Firefox%s", kind.remove, out)
		}
		m.run("rm", "/run/qubes-service/vifproxy")
	}
	m.halt()
}
