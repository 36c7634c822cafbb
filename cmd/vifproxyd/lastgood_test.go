package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// The rows of this file are what can be wrong, each with what a person is told of it, in `show` and by `update`.

// pair is two AppVMs that run: work, to which something is going to happen, and play, which must not notice.
func (s *site) pair(flags ...string) {
	s.Helper()
	s.rules("work.10.137.0.11", bank)
	s.rules("play.10.137.0.12", shop)
	s.attach("work", "10.137.0.11")
	s.attach("play", "10.137.0.12")
	s.start(flags...)
	s.opens("work", "http://bank.example/")
	s.opens("play", "http://shop.example/")
}

// told checks what `update` and `show` say of an AppVM. DIR stands for the test's directory, PORT for a port.
func (s *site) told(vm, state, message string) control.VM {
	s.Helper()
	_, errs, status := s.ctl("update")
	row := s.show()[vm]
	if got := s.plain(row.Error); row.State != state || got != message {
		s.Errorf("show says of %s, %s:\n%s\nwant, %s:\n%s", vm, row.State, got, state, message)
	}
	if want := fmt.Sprintf("%s (%s)", vm, row.IP); status != 1 || !strings.Contains(errs, want) ||
		!strings.Contains(s.plain(errs), strings.TrimPrefix(message, "start proxy for "+want+": ")) {
		s.Errorf("update: exit status %d:\n%s", status, errs)
	}
	return row
}

var somePort = regexp.MustCompile(`\b6[1-4][0-9]{3}\b`)

func (s *site) plain(text string) string {
	return somePort.ReplaceAllString(strings.ReplaceAll(text, s.dir, "DIR"), "PORT")
}

// undisturbed checks that a proxy is the same as before, and serves.
func (s *site) undisturbed(before control.VM, page string) {
	s.Helper()
	now := s.show()[before.Name]
	if now.PID != before.PID || now.State != control.Running {
		s.Errorf("%s was disturbed: %+v, before %+v", before.Name, now, before)
	}
	if err := s.page(before.Name, page); err != nil {
		s.Errorf("%s: %v", before.Name, err)
	}
}

func TestWhatIsWrongInARuleFile(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.pair()
	work, play := s.show()["work"], s.show()["play"]
	const file = "DIR/rules/work.10.137.0.11"
	for _, row := range []struct{ content, message string }{
		{"^bank\\.example $\n", file + `:1: white space inside "^bank\.example $"; tinyproxy would cut it to "^bank\.example" ` +
			`(remove the white space, or begin the comment with '#')`},
		{bank + "\n" + strings.Repeat("x", 512) + "\n", file + `:2: 512 bytes in a line; tinyproxy would split it after 511 ` +
			`(make two lines of it)`},
		{bank + "\n^shop\x00\n", file + `:2: a NUL byte; tinyproxy would end the line there (remove it)`},
		{"^b\xfcro$\n", file + `:1: invalid UTF-8: byte 0xfc (save the file as UTF-8)`},
		{"#: upstreem http x:1\n", file + `:1: unknown directive "#: upstreem http x:1" (known are "#: format domains", ` +
			`"#: format patterns", "#: port PORT...", "#: egress CIDR[:PORT]" and "#: include LIST"; no comment begins with "#:")`},
		{bank + "\n# fine\n^[shop\n", file + `:3: "^[shop" opens a bracket that nothing closes (close it, or write \[)`},
	} {
		s.must(writeFile(filepath.Join(s.rulesDir(), "work.10.137.0.11"), []byte(row.content), 0o644))
		s.told("work", control.Running, row.message)
		s.undisturbed(work, "http://bank.example/")
	}

	// A link into nowhere, as into a file system that is not mounted, is a file that cannot be read, and not none.
	s.must(os.Symlink("/nowhere/at/all", filepath.Join(s.rulesDir(), ".new")))
	s.must(os.Rename(filepath.Join(s.rulesDir(), ".new"), filepath.Join(s.rulesDir(), "work.10.137.0.11")))
	s.told("work", control.Running,
		file+": cannot be opened: no such file or directory (make it a readable file, or remove it)")
	s.undisturbed(work, "http://bank.example/")

	// The last good proxy is one also after it had to be started again.
	s.must(syscall.Kill(work.PID, syscall.SIGKILL))
	s.opens("work", "http://bank.example/")

	s.rules("work.10.137.0.11", shop)
	s.update()
	if vm := s.show()["work"]; vm.Error != "" {
		s.Errorf("mended: %+v", vm)
	}
	s.opens("work", "http://shop.example/")
	s.refuses("work", "http://bank.example/")

	// With no last good one there is none.
	s.detach("work")
	s.rules("work.10.137.0.11", "^[bank")
	s.attach("work", "10.137.0.11")
	s.untilState("work", control.Refused)
	if err := s.cutOff("work"); err != nil {
		s.Error(err)
	}
	s.undisturbed(play, "http://shop.example/")
	s.stop()
}

// A template with which tinyproxy starts and accepts nobody, or cannot listen, concerns all AppVMs. The last good one serves on.
func TestTemplateThatServesNobody(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.pair()
	work := s.show()["work"]
	for line, message := range map[string]string{
		"MaxClients 0":   "serves nobody (write 1 or more)",
		"Listen 0.0.0.0": "takes the same port of the same address once more (write Listen {bind_ip} once, and remove this line)",
	} {
		s.rules("config", whiteList+line)
		s.told("work", control.Running, fmt.Sprintf("DIR/rules/config:7: %q %s", line, message))
		s.undisturbed(work, "http://bank.example/")
	}
	s.stop()
}

func TestRuleDirectoryThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.pair()
	work, play := s.show()["work"], s.show()["play"]
	away := s.rulesDir() + ".away"
	s.must(writeFile(away, nil, 0o644))
	exchange := func() { // at no moment is there nothing, which would be a directory without rules
		s.must(unix.Renameat2(unix.AT_FDCWD, s.rulesDir(), unix.AT_FDCWD, away, unix.RENAME_EXCHANGE))
	}
	exchange()
	_, errs, status := s.ctl("update")
	if want := "rules: read rule directory: open DIR/rules: not a directory"; status != 1 ||
		!strings.Contains(s.plain(errs), want) {
		s.Errorf("update: exit status %d:\n%s\nwant:\n%s", status, errs, want)
	}
	s.undisturbed(work, "http://bank.example/")
	s.undisturbed(play, "http://shop.example/")
	exchange()
	s.update()
	s.undisturbed(work, "http://bank.example/")
	s.undisturbed(play, "http://shop.example/")
	s.stop()
}

func TestFullRuntimeDirectory(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.inMemory("256k")
	s.pair()
	work, play := s.show()["work"], s.show()["play"]
	ballast := filepath.Join(s.runDir(), "ballast")
	if err := writeFile(ballast, make([]byte, 1<<20), 0o600); err == nil {
		s.Fatal("the file system is not full")
	}
	s.rules("work.10.137.0.11", bank, shop)
	s.told("work", control.Running, "start proxy for work (10.137.0.11): write DIR/run/work/PORT/config: no space left on device "+
		"(free space on the file system of DIR/run; see df and df -i)")
	s.undisturbed(work, "http://bank.example/")
	s.undisturbed(play, "http://shop.example/")
	s.must(os.Remove(ballast))
	s.opens("work", "http://shop.example/") // by itself
	s.undisturbed(play, "http://shop.example/")
	s.stop()
}

func TestExhaustedPorts(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.pair("--listen-ports=61000-61001")
	work, play := s.show()["work"], s.show()["play"]
	s.rules("work.10.137.0.11", bank, shop)
	s.told("work", control.Running, "all ports from PORT to PORT are in use: give vifproxyd a wider --listen-ports")
	s.undisturbed(work, "http://bank.example/")
	s.undisturbed(play, "http://shop.example/")
	s.detach("play")
	s.opens("work", "http://shop.example/") // its port is free now
	s.stop()
}

func TestForeignProcessOnAPort(t *testing.T) {
	onBoth(t, func(s *site) {
		var foreign net.Listener
		s.must(s.Do(func() (err error) {
			foreign, err = net.Listen("tcp4", "0.0.0.0:61001")
			return err
		}))
		defer foreign.Close()
		s.pair() // one of the two begins there, and goes on to the next port
		for _, vm := range s.show() {
			if vm.Port == 61001 {
				s.Errorf("bound to somebody else's port: %+v", vm)
			}
		}
		s.stop()
	})
}

// TestSocketsChangeHands takes the listening socket away from under a proxy that lives on.
func TestSocketsChangeHands(t *testing.T) {
	onBoth(t, func(s *site) {
		s.pair()
		work, play := s.show()["work"], s.show()["play"]
		s.inFirewall("ss", "--kill", "--tcp", "--listening", "sport", "=", fmt.Sprintf(":%d", work.Port))
		var foreign net.Listener
		s.must(s.Do(func() (err error) {
			foreign, err = net.Listen("tcp4", fmt.Sprintf("%s:%d", lab.Gateway, work.Port))
			return err
		}))
		defer foreign.Close()
		s.must(s.daemon.cmd.Process.Signal(syscall.SIGHUP))
		s.until("another process serves, on another port", func() error {
			if now := s.show()["work"]; now.PID == work.PID || now.Port == work.Port || now.State != control.Running {
				return fmt.Errorf("%+v", now)
			}
			return nil
		})
		s.opens("work", "http://bank.example/")
		// The daemon may look before anybody else listens there.
		if log := s.daemon.log.String(); !strings.Contains(log, "another process, of uid 0, listens on") && !strings.Contains(log, "does not listen on") {
			s.Error("the log does not say why")
		}
		s.undisturbed(play, "http://shop.example/")
		s.stop()
	})
}

// program puts a tinyproxy, or what shall pass for one, where the daemon looks for it.
func (s *site) program(content string) {
	s.Helper()
	temp := filepath.Join(s.dir, ".program")
	s.must(writeFile(temp, []byte(content), 0o755))
	s.must(os.Chmod(temp, 0o755))
	s.must(os.Rename(temp, filepath.Join(s.dir, "tinyproxy")))
}

// compiled is a program that does nothing but body: a script could not run where a proxy is confined. Nor could
// time.Sleep, by which the Go runtime comes to poll.
func (s *site) compiled(body string) string {
	s.Helper()
	dir := s.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "main")
	s.must(writeFile(source, []byte("package main\n\nimport \"syscall\"\n\n"+
		"func main() { syscall.Getpid(); "+body+" }\n"), 0o600))
	cmd := exec.Command("go", "build", "-o", program, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("%v: %s", err, out)
	}
	content, err := os.ReadFile(program)
	s.must(err)
	return string(content)
}

func TestTinyproxyGoneReplacedAndBroken(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	real, err := os.ReadFile("/usr/bin/tinyproxy")
	s.must(err)
	path := filepath.Join(s.dir, "tinyproxy")
	s.program(string(real))
	s.pair("--tinyproxy=" + path)
	work := s.show()["work"]

	// Replaced: everybody's process is replaced, without a gap.
	beat, end := s.load("work", "http://bank.example/")
	<-beat
	s.program(string(real))
	s.update()
	<-beat
	s.Logf("while tinyproxy was replaced: %s", end())
	if now := s.show()["work"]; now.PID == work.PID || now.State != control.Running {
		s.Errorf("replaced: %+v, before %+v", now, work)
	}
	work, play := s.show()["work"], s.show()["play"]

	const start = "start proxy for work (10.137.0.11): "
	for _, row := range []struct {
		what    string
		change  func()
		message string
	}{
		{"missing", func() { s.must(os.Remove(path)) },
			start + "no tinyproxy program: stat DIR/tinyproxy: no such file or directory (install the package tinyproxy, " +
				"or name the program with --tinyproxy)"},
		{"not executable", func() { s.program(string(real)); s.must(os.Chmod(path, 0o644)) },
			start + "tinyproxy program DIR/tinyproxy may not be executed by everybody (chmod 755 it)"},
		{"no program", func() { s.program("\x00") },
			start + "cannot execute DIR/tinyproxy as uid 1888026635: exec format error (it is not a program for this machine; " +
				"reinstall the package tinyproxy)"},
		{"a script", func() { s.program("#!/bin/sh\nexec tinyproxy \"$@\"\n") },
			start + "DIR/tinyproxy is a script: confinement lets no interpreter in (name the program itself with --tinyproxy)"},
		{"ends at once", func() { s.program(s.compiled(`syscall.Write(1, []byte("good bye\n"))`)) },
			start + "tinyproxy ended by itself with status 0; it said \"good bye\" (somebody sent it SIGTERM, or it is not tinyproxy)"},
		{"never listens", func() { s.program(s.compiled(`for { syscall.Pause() }`)) },
			start + "tinyproxy does not listen on 10.138.1.1:PORT and said nothing: context deadline exceeded " +
				"(check that the program is tinyproxy, and that the machine is not overloaded)"},
	} {
		s.Log(row.what)
		row.change()
		s.rules("work.10.137.0.11", bank, "^"+strings.ReplaceAll(row.what, " ", "")+`\.example$`)
		s.told("work", control.Running, row.message)
		s.undisturbed(work, "http://bank.example/")
		s.undisturbed(play, "http://shop.example/")
	}

	// Without a last good one, each is a state of its own, and mended by itself.
	s.detach("work")
	s.program(s.compiled(""))
	s.attach("work", "10.137.0.11")
	s.until("there is no proxy", func() error {
		if vm := s.show()["work"]; vm.PID != 0 || !strings.Contains(vm.Error, "status 0 and said nothing") {
			return fmt.Errorf("%+v", vm)
		}
		return nil
	})
	if err := s.cutOff("work"); err != nil {
		s.Error(err)
	}
	s.program(string(real))
	s.opens("work", "http://bank.example/")
	s.opens("play", "http://shop.example/")
	s.stop()
}
