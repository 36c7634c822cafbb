package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// Services of qrexec, called as qrexec-agent does, through the real daemon.

// service prepares the call of a service by an AppVM. It is executed by a link in /etc/qubes-rpc, with the argument in the environment and
// as argv[1].
func (s *site) service(caller, service, argument string) *exec.Cmd {
	s.Helper()
	link := filepath.Join(s.dir, service)
	if err := os.Symlink(filepath.Join(programs, "vifproxy-qrexec"), link); err != nil && !errors.Is(err, os.ErrExist) {
		s.Fatal(err)
	}
	cmd := exec.Command(link)
	cmd.Dir = "/root"
	cmd.Env = []string{"HOME=/root", "SHELL=/bin/bash", "USER=root", "LOGNAME=root", "PATH=" + s.dir + ":" + os.Getenv("PATH"),
		"QREXEC_AGENT_PID=1", "QREXEC_REQUESTED_TARGET_TYPE=", "QREXEC_SERVICE_FULL_NAME=" + service + "+" + argument,
		"QREXEC_REMOTE_DOMAIN=" + caller, "QREXEC_SERVICE_ARGUMENT=" + argument,
		"VIFPROXY_SOCKET=" + s.socket(), "GORACE=" + os.Getenv("GORACE")}
	if argument != "" {
		cmd.Args = append(cmd.Args, argument)
	}
	return cmd
}

// calls has an AppVM call a service, and returns what it prints and its exit status. Standard input stays open.
func (s *site) calls(caller, service, argument string) (text string, status int) {
	s.Helper()
	cmd := s.service(caller, service, argument)
	open, end, err := os.Pipe()
	s.must(err)
	defer open.Close()
	defer end.Close()
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = open, &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		s.Fatal(err)
	}
	if errs.Len() > 0 { // qrexec gives it to the caller
		s.Errorf("%s+%.100s by %s says on standard error: %s", service, argument, caller, errs.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// A denials is a call of vifproxy.Denied.
type denials struct {
	*site
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan control.Refusal // closed at the end of standard output
}

// tells has an AppVM call vifproxy.Denied, and returns when nothing that is refused is missed any more.
func (s *site) tells(caller string) *denials {
	s.Helper()
	d := &denials{site: s, cmd: s.service(caller, "vifproxy.Denied", ""), lines: make(chan control.Refusal, 1000)}
	var err error
	d.stdin, err = d.cmd.StdinPipe()
	s.must(err)
	out, err := d.cmd.StdoutPipe()
	s.must(err)
	s.must(d.cmd.Start())
	s.Cleanup(func() { d.cmd.Process.Kill(); d.cmd.Wait() }) //nolint:errcheck // it has ended, in most tests
	go func() {
		defer close(d.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var r control.Refusal
			decoder := json.NewDecoder(bytes.NewReader(lines.Bytes()))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&r); err != nil {
				s.Errorf("vifproxy.Denied says %q: %v", lines.Text(), err)
			}
			d.lines <- r
		}
	}()
	return d
}

// refusedUntilTold has an AppVM ask for a host until its stream has it: the stream begins some time after the call. What others asked for
// begins with "other.", and may not come.
func (d *denials) refusedUntilTold(vm, host string) control.Refusal {
	d.Helper()
	var told *control.Refusal
	d.until(vm+" is told of "+host, func() error {
		d.refuses(vm, "http://"+host+"/")
		for {
			select {
			case r, more := <-d.lines:
				switch {
				case !more:
					d.Fatal("the stream has ended")
				case strings.HasPrefix(r.Host, "other."):
					d.Fatalf("the stream of %s has %+v", vm, r)
				case r.Host == host:
					told = &r
				}
				continue
			default:
			}
			if told == nil {
				return errors.New("it is not told yet")
			}
			return nil
		}
	})
	return *told
}

// ends waits until the stream has ended, and returns the exit status of the service.
func (d *denials) ends() int {
	d.Helper()
	for range d.lines { //nolint:revive // what came before
	}
	d.cmd.Wait() //nolint:errcheck // the exit status says it
	return d.cmd.ProcessState.ExitCode()
}

// tree returns everything in the rule directory, with modes, inodes and times.
func (s *site) tree() string {
	s.Helper()
	var b strings.Builder
	entries, err := os.ReadDir(s.rulesDir())
	s.must(err)
	for _, e := range entries {
		info, err := e.Info()
		s.must(err)
		content, err := os.ReadFile(filepath.Join(s.rulesDir(), e.Name()))
		s.must(err)
		fmt.Fprintf(&b, "%s %v %v %d\n%s\n", e.Name(), info.Mode(), info.ModTime(), info.Sys().(*syscall.Stat_t).Ino, content)
	}
	return b.String()
}

func TestAnAppVMAsks(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("banking.10.137.0.11", "#: format domains", "bank.example")
	s.rules("work.10.137.0.12", bank)
	s.attach("banking", "10.137.0.11")
	s.attach("work", "10.137.0.12")
	s.start()
	s.opens("banking", "http://bank.example/")
	s.opens("work", "http://bank.example/")

	// The stream has what its own list refuses, and nothing else.
	stream := s.tells("banking")
	r := stream.refusedUntilTold("banking", "cdn.shop.example")
	if r.Port != 80 || r.Reason != "list" || r.Site != "shop.example" || r.Time.IsZero() {
		s.Errorf("told: %+v", r)
	}
	s.refuses("work", "http://other.example/")
	s.deniedOne("work", "other.example") // it was told to those whom it concerns
	stream.refusedUntilTold("banking", "news.example")

	// For ten minutes: no file has it.
	before := s.tree()
	if text, status := s.calls("banking", "vifproxy.Allow", "Shop.example+443"); status != 0 || text != "shop.example is allowed for 10 minutes\n" {
		s.Errorf("Allow: exit status %d: %s", status, text)
	}
	s.must(s.page("banking", "http://shop.example/")) // it is in force when the answer comes
	s.refuses("work", "http://shop.example/")
	if s.tree() != before {
		s.Errorf("the rule directory was\n%s\nand is\n%s", before, s.tree())
	}
	if !strings.Contains(s.daemon.log.String(), "the AppVM asked for it") {
		s.Error("the log does not say who asked")
	}

	// For good, by the same line as `vifproxyctl allow` writes.
	if text, status := s.calls("work", "vifproxy.AllowAlways", "shop.example"); status != 0 || text != "shop.example is allowed\n" {
		s.Errorf("AllowAlways: exit status %d: %s", status, text)
	}
	s.must(s.page("work", "http://shop.example/"))
	s.fileIs("work.10.137.0.12", bank+"\n"+shop+"\n")
	for range 2 {
		if text, status := s.calls("banking", "vifproxy.AllowAlways", "git.example+8443"); status != 0 || text != "git.example:8443 is allowed\n" {
			s.Errorf("AllowAlways with a port: exit status %d: %s", status, text)
		}
	}
	s.fileIs("banking.10.137.0.11", "#: format domains\nbank.example\ngit.example:8443\n")

	// If nothing is kept, the answer says so.
	s.must(writeFile(filepath.Join(s.dir, "qubesdb-read"), []byte("#!/bin/sh\necho none\n"), 0o755))
	if text, status := s.calls("banking", "vifproxy.AllowAlways", "a.example"); status != 0 ||
		!strings.HasPrefix(text, "a.example is allowed until the firewall VM restarts") {
		s.Errorf("AllowAlways in a disposable: exit status %d: %s", status, text)
	}

	// If a host is allowed and the proxy does not serve, the answer is a no.
	s.ctl("stop", "work")
	if text, status := s.calls("work", "vifproxy.Allow", "a.example"); status != 1 || !strings.Contains(text, "not in force") {
		s.Errorf("Allow for one that is stopped: exit status %d: %s", status, text)
	}

	// The stream ends with its caller, with its list, and with the daemon.
	s.must(stream.stdin.Close())
	if status := stream.ends(); status != 0 {
		s.Errorf("the caller is gone: exit status %d", status)
	}
	stream, other := s.tells("banking"), s.tells("work")
	stream.refusedUntilTold("banking", "more.example")
	s.ctl("start", "work")
	s.until("work is served", func() error { return s.page("work", "http://bank.example/") })
	other.refusedUntilTold("work", "more.example")
	s.must(os.Rename(filepath.Join(s.rulesDir(), "banking.10.137.0.11"), filepath.Join(s.rulesDir(), "renamed.10.137.0.11")))
	if status := stream.ends(); status != 0 {
		s.Errorf("the list has another name: exit status %d", status)
	}
	s.stop()
	if status := other.ends(); status != 0 {
		s.Errorf("the daemon is gone: exit status %d", status)
	}
	if text, status := s.calls("work", "vifproxy.Allow", "a.example"); status != 1 || !strings.HasPrefix(text, "no: ") {
		s.Errorf("without a daemon: exit status %d: %s", status, text)
	}
}

func (s *site) fileIs(file, want string) {
	s.Helper()
	content, err := os.ReadFile(filepath.Join(s.rulesDir(), file))
	s.must(err)
	if string(content) != want {
		s.Errorf("%s has\n%s\nwant\n%s", file, content, want)
	}
}

// A list in dom0 cannot be changed here. The command that the caller is told works in dom0, and tells the caller nothing that it did not
// know.
func TestAnAppVMAsksForWhatDom0Keeps(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	d, option := s.qubesDB()
	const feature = "/vm-config/vifproxy.banking.10.137.0.11"
	d.Write(feature, "bank.example")
	s.attach("banking", "10.137.0.11")
	s.start(option)
	s.opens("banking", "http://bank.example/")
	if text, status := s.calls("banking", "vifproxy.Allow", "shop.example"); status != 0 {
		s.Errorf("Allow: exit status %d: %s", status, text)
	}
	s.must(s.page("banking", "http://shop.example/"))
	text, status := s.calls("banking", "vifproxy.AllowAlways", "shop.example")
	said, command, _ := strings.Cut(strings.TrimSpace(text), "; type there: ")
	if status != 1 || said != "no: dom0 keeps this list" || strings.Contains(text, "10.137") || strings.Contains(text, "sys-fw") ||
		strings.Contains(text, "bank.example") {
		s.Fatalf("AllowAlways: exit status %d: %s", status, text)
	}
	dom0 := exec.Command("bash", "-c", `qvm-prefs() { [ "$1" = banking ] && case $2 in netvm) echo sys-fw;; ip) echo 10.137.0.11;; esac; }
		qvm-features() { [ "$1 $2" = "sys-fw vm-config.vifproxy.banking.10.137.0.11" ] && if [ $# = 3 ]; then printf %s "$3"; else echo bank.example; fi; }
		`+command)
	value, err := dom0.Output()
	if err != nil || string(value) != "bank.example shop.example" {
		s.Fatalf("in dom0: %v, %s", err, value)
	}
	s.ctl("deny", "banking", "shop.example")
	s.goes("banking", "http://shop.example/")
	d.Write(feature, string(value))
	s.opens("banking", "http://shop.example/")
	s.stop()
}

func TestHostileCallers(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	d, option := s.qubesDB()
	d.Firewall("10.137.0.13", "drop", "action=accept dsthost=bank.example proto=tcp dstports=80-80", "action=drop")
	s.rules("banking.10.137.0.11", "#: format domains", "bank.example")
	s.rules("work.10.137.0.12", "#: format domains", "secret.example")
	s.rules("twin.10.137.0.21", "#: format domains", "bank.example")
	s.rules("twin.10.137.0.22", "#: format domains", "bank.example")
	s.rules("disp.10.138.0.0_16", "#: format domains", "bank.example")
	s.attach("banking", "10.137.0.11")
	s.attach("settings", "10.137.0.13")
	s.attach("disp", "10.138.0.5")
	s.start(option, "--qubes-firewall=on")
	s.opens("banking", "http://bank.example/")
	s.opens("settings", "http://bank.example/")
	s.opens("disp", "http://bank.example/")
	before, begin := s.tree(), len(s.daemon.log.String())

	// cmd/vifproxy-qrexec has a longer table. None of these gets as far as the service.
	arguments := []string{"", "*.shop.example", "shop.example+", "shop.example+443+x", "10.137.0.12", "0x7f000001", "localhost", "sys-fw", "co.uk",
		"--help", "../../etc/passwd", strings.Repeat("a", 65000), "shop.example\nevil.example", "shop.example evil.example", "$(id).example"}
	strangers := []string{"", "nobody", "disp1234", "disp-10.138.0.5", "vm-10.137.0.13", "twin", "Banking", "BANKING", "banking ", " banking",
		"banking\n", "banking\nwork", "banking work", "banking.10.137.0.11", "../banking", "*", "dom0", "@adminvm", "uuid:00000000-0000-0000-0000-000000000000",
		"-banking", strings.Repeat("b", 32), "b\u00e4nking"}
	refused := func(caller, service, argument string) {
		t.Helper()
		text, status := s.calls(caller, service, argument)
		if status != 1 || !strings.HasPrefix(text, "no: ") || strings.Count(text, "\n") != 1 || len(text) > 300 {
			s.Errorf("%q calls %s+%.100q: exit status %d: %s", caller, service, argument, status, text)
		}
		for _, secret := range []string{"work", "secret", "twin", "10.13", "sys-fw", s.dir, "/rw"} {
			if strings.Contains(strings.ReplaceAll(text, caller, ""), secret) {
				s.Errorf("%q learns of %s: %s", caller, secret, text)
			}
		}
	}
	services := []string{"vifproxy.Allow", "vifproxy.AllowAlways"}
	for i, argument := range arguments {
		refused("banking", services[i%2], argument)
	}
	for i, stranger := range strangers {
		refused(stranger, services[i%2], "shop.example")
		refused(stranger, "vifproxy.Denied", "")
	}
	for _, argument := range []string{"work", "+work", "banking", "--help"} {
		refused("banking", "vifproxy.Denied", argument)
	}
	refused("banking", "vifproxy.Other", "shop.example")
	refused("banking", "vifproxy-qrexec", "shop.example")

	// Variables that the agent never sets do not matter.
	lying := s.service("nobody", "vifproxy.Allow", "")
	lying.Args = append(lying.Args, "shop.example")
	lying.Env = append(lying.Env, "QREXEC_SERVICE_FULL_NAME=vifproxy.AllowAlways+shop.example", "QREXEC_REQUESTED_TARGET=banking")
	if out, err := lying.Output(); err == nil || !strings.HasPrefix(string(out), "no: ") {
		s.Errorf("an environment that lies: %v, %s", err, out)
	}

	if s.tree() != before {
		s.Errorf("the rule directory was\n%s\nand is\n%s", before, s.tree())
	}
	if log := s.daemon.log.String()[begin:]; strings.Contains(log, "host allowed") {
		s.Errorf("something was allowed:\n%s", log)
	}
	s.refuses("banking", "http://shop.example/")
	s.refuses("settings", "http://shop.example/")
	s.refuses("disp", "http://shop.example/")
	s.stop()
}

// Who floods, does not read, or calls without end holds up nobody else.
func TestCallersThatFlood(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("banking.10.137.0.11", "#: format domains", "bank.example")
	s.rules("work.10.137.0.12", "#: format domains", "bank.example")
	s.attach("banking", "10.137.0.11")
	s.start()
	s.opens("banking", "http://bank.example/")

	// Standard input is never read where nothing depends on its end, and only so much where something does.
	flooded := s.service("banking", "vifproxy.Allow", "shop.example")
	flooded.Stdin = zeros{}
	flooded.WaitDelay = patience
	if out, err := flooded.Output(); err != nil {
		s.Errorf("Allow with a flood: %v, %s", err, out)
	}
	flooded = s.service("banking", "vifproxy.Denied", "")
	flooded.Stdin = zeros{}
	flooded.WaitDelay = patience
	if out, err := flooded.Output(); err == nil || len(out) > 0 {
		s.Errorf("Denied with a flood: %v, %s", err, out)
	}

	// Standard output that nobody reads fills, and ends with the caller all the same.
	silent := s.service("banking", "vifproxy.Denied", "")
	unread, full, err := os.Pipe()
	s.must(err)
	defer unread.Close()
	defer full.Close()
	size, err := unix.FcntlInt(full.Fd(), unix.F_SETPIPE_SZ, 4096)
	s.must(err)
	silent.Stdout = full
	stdin, err := silent.StdinPipe()
	s.must(err)
	s.must(silent.Start())
	s.Cleanup(func() { silent.Process.Kill(); silent.Wait() }) //nolint:errcheck // it has ended
	name := strings.Repeat(strings.Repeat("a", 60)+".", 3) + "example"
	s.until("standard output is full", func() error {
		s.refuses("banking", "http://"+name+"/")
		waiting, err := unix.IoctlGetInt(int(unread.Fd()), unix.TIOCINQ)
		s.must(err)
		if waiting < size-512 { // another line does not fit
			return fmt.Errorf("it has %d bytes of %d", waiting, size)
		}
		return nil
	})
	s.must(stdin.Close())
	s.must(silent.Wait())

	// A caller has two streams, and is told no then. Others get answers.
	one, two := s.tells("banking"), s.tells("banking")
	one.refusedUntilTold("banking", "b.example")
	two.refusedUntilTold("banking", "c.example")
	if text, status := s.calls("banking", "vifproxy.Denied", ""); status != 1 || text != "no: asked too often; wait a minute\n" {
		s.Errorf("a third stream: exit status %d: %s", status, text)
	}
	client := control.NewClient(s.socket())
	s.until("it is told no", func() error {
		for range 500 {
			client.Caller(t.Context(), "banking") //nolint:errcheck // most are refused
		}
		if text, status := s.calls("banking", "vifproxy.AllowAlways", "a.example"); status != 1 {
			return fmt.Errorf("exit status %d: %s", status, text)
		}
		return nil
	})
	if text, status := s.calls("work", "vifproxy.AllowAlways", "a.example"); status != 1 || !strings.Contains(text, "not in force") { // it is not connected
		s.Errorf("another AppVM meanwhile: exit status %d: %s", status, text)
	}
	s.fileIs("work.10.137.0.12", "#: format domains\nbank.example\na.example\n")
	if n := strings.Count(s.daemon.log.String(), "asks too often"); n != 1 {
		s.Errorf("%d lines of the log say that it asks too often", n)
	}
	s.stop()
	one.ends()
	two.ends()
}

// zeros is a flood without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
