//go:build e2e && browsers

package packaging

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/events"
	"vifproxy/internal/lab"
)

// browsing is for how long a browser is left alone with its page: most of what it asks for by itself comes in that time.
const browsing = 2 * time.Minute

// gnome is what a session of GNOME tells its programs: Chromium then asks GNOME for the proxy, and not the environment.
var gnome = []string{"--setenv=XDG_CURRENT_DESKTOP=GNOME", "--setenv=DESKTOP_SESSION=gnome", "--setenv=XDG_SESSION_DESKTOP=gnome"}

// Debian's Firefox and Chromium, in a home that is new, load a listed page with the policies that `client` prints, brought to
// their places by the commands that it prints. Two minutes later, the host that the page misses is among the first three of
// `denied`.
func TestBrowsersShowWhatAPageMisses(t *testing.T) {
	now, _ := packages(t)
	tree := debianWithBrowsers(t)
	m := newMachine(t, lab.R42)
	m.newRoot(nil)
	m.boot()
	m.install(now.deb)

	firefox := []string{"firefox-esr", "--headless"}
	chromium := []string{"chromium", "--headless=new", "--disable-gpu", "--remote-debugging-port=9222"} // else it ends with the page
	for i, b := range []struct {
		vm      string
		policy  string
		command []string
		session []string
	}{
		{"fox", "firefox-policy", firefox, nil},
		{"fox-gnome", "firefox-policy", firefox, gnome},
		{"chrome", "chromium-policy", chromium, nil},
		{"chrome-gnome", "chromium-policy", chromium, gnome},
	} {
		ip := fmt.Sprintf("10.137.0.%d", 11+i)
		m.rule(b.vm+"."+ip, "#: format domains", b.vm+".bank.example")
		m.attach(b.vm, ip)
		m.until(b.vm+" is served", func() error { return m.page(b.vm, "http://"+b.vm+".bank.example/") })

		root := appVM(t, tree)
		m.run("sh", "-c", fmt.Sprintf("vifproxyctl client %s --format=%s >/policy 2>/where", b.vm, b.policy))
		where := strings.Split(strings.TrimSpace(m.run("cat", "/where")), "\n")
		remedy := strings.Fields(where[len(where)-1]) // install -D -m 644 FILE PLACE
		must(t, os.MkdirAll(filepath.Join(root, "rw/config"), 0o755))
		must(t, os.WriteFile(filepath.Join(root, remedy[len(remedy)-2]), []byte(m.run("cat", "/policy")), 0o600))
		inRoot(t, root, remedy...)

		page := fmt.Sprintf("http://%s.bank.example/page?needs=https://cdn.example/lib.js", b.vm)
		browse(m, b.vm, root, append(b.session, append([]string{"--"}, append(b.command, page)...)...))
	}
	for _, vm := range []string{"fox", "fox-gnome", "chrome", "chrome-gnome"} {
		m.until("the page of "+vm+" misses its host", func() error {
			if place, hosts := placeOf(m, vm, "cdn.example"); place < 0 {
				return fmt.Errorf("denied has %v", hosts)
			}
			return nil
		})
	}
	<-time.After(browsing)
	for _, vm := range []string{"fox", "fox-gnome", "chrome", "chrome-gnome"} {
		place, hosts := placeOf(m, vm, "cdn.example")
		t.Logf("%s: denied has %s", vm, strings.Join(hosts, ", "))
		if place < 0 || place > 2 {
			t.Errorf("%s: what the page misses is at place %d of\n%s", vm, place, strings.Join(hosts, "\n"))
		}
	}
	m.halt()
}

// placeOf returns where a host is in the list of what an AppVM was refused, from 0, or -1, and the list.
func placeOf(m *machine, vm, host string) (place int, hosts []string) {
	m.Helper()
	var all []events.Denied
	must(m.T, json.Unmarshal([]byte(m.run("vifproxyctl", "denied", "--json", vm)), &all))
	place = -1
	for i, d := range all[0].Hosts {
		if d.Host == host && place < 0 {
			place = i
		}
		hosts = append(hosts, fmt.Sprintf("%s:%d", d.Host, d.Port))
	}
	return place, hosts
}

// debianWithBrowsers is debian with both browsers.
func debianWithBrowsers(t *testing.T) string {
	t.Helper()
	return debianWith(t, debian(t), "browsers", "firefox-esr", "chromium", "libnss3-tools")
}

// debianWith returns a tree with more packages, which is made when it is missing. debootstrap cannot configure so many packages
// (dconf-service, as of 1.0.128), apt can.
func debianWith(t *testing.T, base, name string, packages ...string) string {
	t.Helper()
	key := sha256.Sum256([]byte(strings.Join(packages, " ")))
	tree := fmt.Sprintf("%s-%s-%x", base, name, key[:4])
	if _, err := os.Stat(tree); err == nil {
		return tree
	}
	t.Logf("making %s, once", tree)
	partial := scratchDir(t)
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", base+"/.", partial).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", base, err, out)
	}
	servers, err := os.ReadFile("/etc/resolv.conf")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(partial, "etc/resolv.conf"), servers, 0o644))
	inRoot(t, partial, "apt-get", "-qq", "update")
	inRoot(t, partial, append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "install", "-y", "--no-install-recommends"},
		packages...)...)
	if err := os.Rename(partial, tree); err != nil && !errors.Is(err, fs.ErrExist) { // else another run was quicker
		t.Fatal(err)
	}
	return tree
}

// appVM returns a new root file system over that of a Debian, with an ordinary user.
func appVM(t *testing.T, tree string) string {
	t.Helper()
	dir := scratchDir(t)
	for _, sub := range []string{"layer", "work", "root"} {
		must(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	root := filepath.Join(dir, "root") // scratchDir unmounts what is there
	must(t, unix.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", tree,
		filepath.Join(dir, "layer"), filepath.Join(dir, "work"))))
	inRoot(t, root, "useradd", "--create-home", "user")
	return root
}

func inRoot(t *testing.T, root string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "chroot", append([]string{root}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// browse starts a browser in an AppVM until the end of the test. In a container and not in a chroot, where the kernel
// gives a browser's sandbox no user namespace (current_chrooted in kernel/user_namespace.c).
func browse(m *machine, vm, root string, args []string) {
	m.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	// nsenter and not `ip netns exec`, which hides control groups from nspawn.
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + m.Name + "-vm-" + vm, "systemd-nspawn",
		"--quiet", "--register=no", "--keep-unit", "--as-pid2", "--directory=" + root, "--machine=vifproxy-" + vm, "--user=user",
		"--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	must(m.T, cmd.Start())
	m.Cleanup(func() {
		cancel()
		cmd.Wait() //nolint:errcheck // it was ended
	})
}
