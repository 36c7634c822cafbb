//go:build e2e && browsers

package packaging

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vifproxy/internal/browsers"
	"vifproxy/internal/events"
	"vifproxy/internal/lab"
	"vifproxy/qubes/qubestest"
)

var picture = flag.String("picture", "", "write the picture of a notification, for the guide, to this `FILE`")

// mostByThemselves is how many hosts a browser may ask for in two minutes that its page does not need.
const mostByThemselves = 3

// In an AppVM that nobody has set up but by the package vifproxy-client in its template, Debian's Firefox and Chromium load a listed page
// with what it draws on, in a home that is new, in no session and in one of GNOME. They are refused what is not listed, and hardly ask for anything else.
func TestBrowsersNeedNoSetUp(t *testing.T) {
	now, _ := packages(t)
	tree := debianWithBrowsers(t)
	m := newMachine(t, lab.R42)
	m.newRoot(nil)
	m.boot()
	m.install(now.deb)
	drawn := map[string]*atomic.Int64{} // how often the page's script was asked for
	const fox = "firefox-esr --headless --profile /home/user/profile"
	const chrome = "chromium --headless=new --disable-gpu --remote-debugging-port=9222"
	const inGnome = "XDG_CURRENT_DESKTOP=GNOME DESKTOP_SESSION=gnome XDG_SESSION_DESKTOP=gnome "
	vms := []struct{ name, command string }{{"fox", fox}, {"fox-gnome", inGnome + fox}, {"chrome", chrome}, {"chrome-gnome", inGnome + chrome}}
	for i, vm := range vms {
		count := &atomic.Int64{}
		drawn[vm.name] = count
		m.Host(vm.name+"-cdn.example", netip.MustParseAddr("198.51.100.9"))
		m.Serve(vm.name+"-cdn.example", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			count.Add(1)
			w.Header().Set("Content-Type", "text/javascript")
		}))
		ip := fmt.Sprintf("10.137.0.%d", 11+i)
		m.rule(vm.name+"."+ip, "#: format domains", vm.name+".bank.example", vm.name+"-cdn.example")
		m.attach(vm.name, ip)
		m.until(vm.name+" is served", func() error { return m.page(vm.name, "http://"+vm.name+".bank.example/") })
		a := newGuest(m, vm.name, tree, now.clientDeb)
		for _, dir := range []string{"/home/user/profile", "/home/user/.pki/nssdb"} { // of Firefox, of Chromium
			a.trust(dir)
		}
		a.start("user", "env", append([]string{"-i", "HOME=/home/user", "PATH=/usr/bin:/bin"}, append(strings.Fields(vm.command),
			"https://"+vm.name+".bank.example/page?needs=https://"+vm.name+"-cdn.example/lib.js&needs=https://missing.example/lib.js")...)...)
	}
	for _, vm := range vms {
		m.until(vm.name+" loads its page with what it draws on", func() error {
			if drawn[vm.name].Load() == 0 {
				return errors.New("nobody has got the script")
			}
			return nil
		})
		m.until(vm.name+" is refused what is not listed", func() error {
			if place, hosts := placeOf(m, vm.name, "missing.example"); place < 0 {
				return fmt.Errorf("denied has %v", hosts)
			}
			return nil
		})
	}
	<-time.After(browsing)
	for _, vm := range vms {
		var all []events.Denied
		must(t, json.Unmarshal([]byte(m.run("vifproxyctl", "denied", "--json", vm.name)), &all))
		others := map[string]string{}
		for _, d := range all[0].Hosts {
			if d.Host != "missing.example" {
				others[d.Host] = browsers.Purpose(d.Host)
			}
		}
		t.Logf("%s asks for %v by itself", vm.name, others)
		if len(others) > mostByThemselves {
			t.Errorf("%s asks for %d hosts by itself", vm.name, len(others))
		}
	}
	m.halt()
}

// A refused host is shown by a real desktop. A click on the button has the firewall VM allow the host: the page loads.
func TestBrowsersClickOnANotification(t *testing.T) {
	now, _ := packages(t)
	tree := debianWith(t, debianWithBrowsers(t), "desktop", "xvfb", "xdotool", "imagemagick", "xfce4-notifyd", "adwaita-icon-theme",
		"dbus-user-session", "libpam-systemd", "fonts-dejavu-core")
	m := newMachine(t, lab.R42)
	m.newRoot(nil)
	m.boot()
	m.install(now.deb)
	m.rule("fox.10.137.0.11", "#: format domains", "fox.bank.example")
	m.attach("fox", "10.137.0.11")
	m.until("fox is served", func() error { return m.page("fox", "http://fox.bank.example/") })
	a := newGuest(m, "fox", tree, now.clientDeb)
	services := make(chan string, 100)
	go func() {
		for c := range a.calls {
			go m.service(c, "fox", services)
		}
	}()

	session := []string{"HOME=/home/user", "XDG_RUNTIME_DIR=/run/user/1000", "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus",
		"DISPLAY=:1", "LC_ALL=C.UTF-8", "PATH=/usr/bin:/bin"}
	user := func(args ...string) (string, error) {
		return a.try("user", "env", append(session[:len(session):len(session)], args...)...)
	}
	must(t, a.write("/etc/systemd/user/desktop.target", "[Unit]\nBindsTo=graphical-session.target\n")) // as R4.3 has it
	a.run("root", "loginctl", "enable-linger", "user")
	a.start("user", "Xvfb", ":1", "-screen", "0", "800x300x24", "-nolisten", "tcp")
	m.until("there is a display", func() error { _, err := user("xdotool", "getdisplaygeometry"); return err })
	m.until("there is a session", func() error { _, err := user("systemctl", "--user", "set-environment", "DISPLAY=:1"); return err })
	a.start("user", "env", append(session, "/usr/lib/x86_64-linux-gnu/xfce4/notifyd/xfce4-notifyd")...)
	m.until("notifications are shown", func() error {
		_, err := user("busctl", "--user", "call", "org.freedesktop.Notifications", "/org/freedesktop/Notifications", "org.freedesktop.Notifications", "GetCapabilities")
		return err
	})
	if out, err := user("systemctl", "--user", "start", "desktop.target"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	is := func(service string) {
		t.Helper()
		select {
		case called := <-services:
			if called != service {
				t.Fatalf("called: %s, want %s", called, service)
			}
		case <-time.After(patience):
			t.Fatalf("waited in vain for a call of %s", service)
		}
	}
	is("@default vifproxy.Denied")

	// The first of these requests may come before the service follows refusals.
	m.until("there is a notification", func() error {
		if r := m.Get("fox", "https://static.bank-cdn.example/"); r.Err == nil && r.Status == 200 {
			t.Fatalf("what is not listed is served: %+v", r)
		}
		out, err := user("xdotool", "search", "--onlyvisible", "--class", "xfce4-notifyd")
		if err == nil && strings.TrimSpace(out) == "" {
			err = errors.New("there is none")
		}
		return err
	})
	window, err := user("xdotool", "search", "--onlyvisible", "--class", "xfce4-notifyd")
	must(t, err)
	window = strings.Fields(window)[0]
	geometry, err := user("xdotool", "getwindowgeometry", "--shell", window)
	must(t, err)
	at := map[string]int{}
	for line := range strings.Lines(geometry) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		at[name], _ = strconv.Atoi(value)
	}
	if *picture != "" {
		<-time.After(2 * time.Second) // it fades in
		crop := fmt.Sprintf("%dx%d+%d+%d", at["WIDTH"], at["HEIGHT"], at["X"], at["Y"])
		if out, err := user("import", "-window", "root", "-crop", crop, "+repage", "-colors", "64", "-strip", "/tmp/notification.png"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		text, err := os.ReadFile(filepath.Join(a.root, "tmp/notification.png"))
		if err != nil {
			out := a.run("root", "cat", "/tmp/notification.png") // in a tmpfs
			text = []byte(out)
		}
		must(t, os.WriteFile(*picture, text, 0o644))
	}
	// The left one of the two buttons, which are at the bottom right.
	pressed := time.Now()
	if out, err := user("xdotool", "mousemove", strconv.Itoa(at["X"]+at["WIDTH"]-157), strconv.Itoa(at["Y"]+at["HEIGHT"]-31), "click", "1"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	is("@default vifproxy.Allow+static.bank-cdn.example")
	t.Logf("from the click to the service: %v", time.Since(pressed))
	m.until("the page loads", func() error { return m.page("fox", "https://static.bank-cdn.example/") })
	m.halt()
}

// service runs a service of qrexec in the firewall VM, as its agent does when dom0 has allowed a call, and tells that it was called.
func (m *machine) service(c *qubestest.Call, caller string, called chan<- string) {
	called <- c.Args
	_, service, _ := strings.Cut(c.Args, " ")
	name, argument, _ := strings.Cut(service, "+")
	stdin, end, err := os.Pipe()
	if err != nil {
		c.Exit(1)
		return
	}
	defer stdin.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(m.leader), "--all", "--wd=/", "--", "/etc/qubes-rpc/"+name, argument)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "QREXEC_REMOTE_DOMAIN=" + caller, "QREXEC_SERVICE_ARGUMENT=" + argument,
		"QREXEC_SERVICE_FULL_NAME=" + service}
	cmd.Stdin, cmd.Stdout = stdin, c
	go func() {
		<-c.Ended
		end.Close()
	}()
	err = cmd.Run()
	status := 0
	if err != nil {
		status = max(cmd.ProcessState.ExitCode(), 1)
	}
	c.Exit(status)
}

// A guest is an AppVM that has booted, with the package vifproxy-client in its template.
type guest struct {
	*machine
	root   string
	leader int
	calls  <-chan *qubestest.Call // of services of the firewall VM
}

func newGuest(m *machine, vm, tree, deb string) *guest {
	m.Helper()
	a := &guest{machine: m, root: appVM(m.T, tree)}
	transport := filepath.Join(filepath.Dir(a.root), "transport")
	must(m.T, os.Mkdir(transport, 0o755))
	a.calls = qubestest.ServeQrexec(m.T, filepath.Join(transport, filepath.Base(qubestest.QrexecSocket)))
	must(m.T, a.copy(deb, "/vifproxy-client.deb", 0o644))
	own, err := os.Executable()
	must(m.T, err)
	must(m.T, a.copy(own, "/usr/bin/"+qubestest.QrexecClient, 0o755))
	inRoot(m.T, a.root, "dpkg", "--install", "/vifproxy-client.deb")
	for path, text := range map[string]string{
		"/usr/share/qubes/marker-vm":                       "",
		"/etc/resolv.conf":                                 "nameserver 10.139.1.1\n",
		"/etc/systemd/system/systemd-modules-load.service": "", // masked: the kernel is the host's
	} {
		must(m.T, a.write(path, text))
	}
	console := &strings.Builder{}
	cmd := exec.Command("nsenter", "--net=/run/netns/"+m.Name+"-vm-"+vm, "systemd-nspawn", "--quiet", "--boot", "--register=no",
		"--keep-unit", "--directory="+a.root, "--bind="+transport+":"+filepath.Dir(qubestest.QrexecSocket), "--machine=vifproxy-"+vm,
		"--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe")
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	cmd.Stdout, cmd.Stderr = console, console
	must(m.T, cmd.Start())
	m.Cleanup(func() {
		if m.Failed() && a.leader != 0 {
			out, _ := a.try("root", "journalctl", "--no-pager", "--boot", "--lines=80")
			m.Logf("the journal of %s:\n%s", vm, out)
		}
		if a.leader != 0 {
			exec.Command("kill", "-KILL", strconv.Itoa(a.leader)).Run() //nolint:errcheck // it may have ended
		} else {
			cmd.Process.Kill() //nolint:errcheck // likewise
		}
		cmd.Wait() //nolint:errcheck // by the signal
	})
	m.until(vm+" has booted", func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil {
			return err
		}
		if a.leader, err = strconv.Atoi(strings.TrimSpace(string(children))); err != nil {
			return err
		}
		if out, err := a.try("root", "systemctl", "is-system-running"); err != nil {
			failed, _ := a.try("root", "systemctl", "--failed", "--no-legend")
			return fmt.Errorf("%s: %.500s", strings.TrimSpace(out), failed)
		}
		return nil
	})
	m.until("the setup of "+vm+" has ended", func() error {
		if out := a.run("root", "journalctl", "--output=cat", "--unit=vifproxy-client-setup"); !strings.Contains(out, "programs of this VM use the proxy") {
			return errors.New(out)
		}
		return nil
	})
	return a
}

// trust has a database of certificates, in the format of NSS, that trusts the authority of the lab's origins.
func (a *guest) trust(dir string) {
	a.Helper()
	must(a.T, os.WriteFile(filepath.Join(a.root, "home/user/authority.pem"), a.CA, 0o644))
	for _, args := range [][]string{
		{"mkdir", "-p", dir},
		{"certutil", "-N", "--empty-password", "-d", "sql:" + dir},
		{"certutil", "-A", "-d", "sql:" + dir, "-n", "lab", "-t", "C,,", "-i", "/home/user/authority.pem"},
	} {
		a.run("user", args[0], args[1:]...)
	}
}

// copy copies a file into the AppVM, before its boot.
func (a *guest) copy(from, path string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(a.root, path), os.O_CREATE|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// write writes a file of the AppVM, where nothing is mounted over it.
func (a *guest) write(path, text string) error {
	path = filepath.Join(a.root, path)
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
}

func (a *guest) command(ctx context.Context, user string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(a.leader), "--all", "--wd=/", "--",
		"runuser", "-u", user, "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	return cmd
}

// try runs a program in the AppVM.
func (a *guest) try(user, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := a.command(ctx, user, append([]string{name}, args...)...).CombinedOutput()
	return string(out), err
}

// run runs a program that must go well.
func (a *guest) run(user, name string, args ...string) string {
	a.Helper()
	out, err := a.try(user, name, args...)
	if err != nil {
		a.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// start starts a program that ends with the AppVM.
func (a *guest) start(user, name string, args ...string) {
	a.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := a.command(ctx, user, append([]string{name}, args...)...)
	cmd.WaitDelay = patience
	must(a.T, cmd.Start())
	a.Cleanup(func() {
		cancel()
		cmd.Wait() //nolint:errcheck // it was ended
	})
}
