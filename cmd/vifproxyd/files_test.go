package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// filesOf returns an error unless the files of an AppVM's proxy tell of the one that serves.
func (s *site) filesOf(vm string) error {
	row := s.show()[vm]
	if row.State != control.Running {
		return fmt.Errorf("%+v", row)
	}
	dir := filepath.Join(s.runDir(), vm)
	config, err := os.ReadFile(filepath.Join(dir, "config"))
	if err == nil && !strings.Contains(string(config), fmt.Sprintf("Port %d\n", row.Port)) {
		return fmt.Errorf("not of port %d: %s", row.Port, config)
	}
	for _, file := range []string{"log", fmt.Sprint(row.Port, "/rules"), fmt.Sprint(row.Port, "/refused.html")} {
		_, missing := os.Stat(filepath.Join(dir, file))
		err = errors.Join(err, missing)
	}
	return err
}

// TestARemovedRuntimeDirectoryComesBack, and what is in it: AppVMs that come are served at once, new processes write their files
// again, and no connection ends.
func TestARemovedRuntimeDirectoryComesBack(t *testing.T) {
	t.Parallel()
	for _, gone := range []string{"", "work"} {
		t.Run("gone="+gone, func(t *testing.T) {
			onBoth(t, func(s *site) {
				s.startWork()
				s.refuses("work", "http://shop.example/")
				s.until("there is a log", func() error { return s.filesOf("work") })
				conn := s.tunnel("work", "bank.example:443")
				pid := s.show()["work"].PID
				s.must(os.RemoveAll(filepath.Join(s.runDir(), gone)))

				s.rules("play.10.137.0.12", shop)
				s.attach("play", "10.137.0.12")
				s.opens("play", "http://shop.example/")
				s.until("there are all files again", func() error {
					s.opens("work", "http://bank.example/")
					s.refuses("work", "http://shop.example/")
					s.refuses("play", "http://bank.example/")
					return errors.Join(s.filesOf("work"), s.filesOf("play"))
				})
				if s.show()["work"].PID == pid {
					t.Error("the old process cannot read its error page any more")
				}
				if _, err := conn.Write([]byte("\x16\x03\x01\x00\x01\x01")); err != nil {
					t.Error(err)
				}
				if n := len(s.proxies()); n < 3 {
					t.Errorf("%d processes: the tunnel was cut", n)
				}
				s.says("show", "running")
				if out, errs, _ := s.ctl("show"); strings.Contains(errs, "problem") {
					t.Error(out, errs)
				}
				s.stop()
			})
		})
	}
}

// TestARuntimeDirectoryThatOnlySystemdMakes: as by the unit, the daemon may not make it. It says so, serves on, and ends when a
// proxy cannot start, so that systemd starts it with a new one.
func TestARuntimeDirectoryThatOnlySystemdMakes(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.env = []string{"RUNTIME_DIRECTORY=" + s.runDir()}
	own := func(uid int) { s.must(os.Chown(s.dir, uid, 0)) }
	systemd := func() {
		own(0)
		s.must(os.Mkdir(s.runDir(), 0o755))
		s.must(os.Chown(s.runDir(), s.user, 0))
	}
	s.startWork()
	time.Sleep(10 * time.Second) // lifeMin, of supervisor
	own(0)
	s.must(os.RemoveAll(s.runDir()))
	s.says("show", "problem: files of proxies: somebody has removed the runtime directory, and no proxy can start")
	s.says("doctor", "files of proxies: somebody has removed the runtime directory")
	s.until("systemd is told", func() error {
		if !s.daemon.hasTold("somebody has removed the runtime directory") {
			return errors.New("not told")
		}
		return nil
	})
	s.opens("work", "http://bank.example/")
	s.rules("play.10.137.0.12", shop)
	s.attach("play", "10.137.0.12")
	select {
	case <-s.daemon.exited:
	case <-time.After(patience):
		t.Fatal("no proxy can start, and it goes on")
	}
	if text := s.daemon.log.String(); s.daemon.cmd.ProcessState.ExitCode() != 1 ||
		!strings.Contains(text, "vifproxyd gives up") || !strings.Contains(text, "somebody has removed the runtime directory") {
		t.Errorf("its end: %v", s.daemon.err)
	}
	s.nothingLeft()
	systemd()
	own(s.user) // for its sockets
	s.start()
	s.opens("work", "http://bank.example/")
	s.opens("play", "http://shop.example/")
	s.stop()
}

// A pid file takes the place of a regular file only: some templates name /dev/null.
func TestPidFileAtADevice(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	template, err := os.ReadFile("../../rules/builtin.conf")
	s.must(err)
	dir := filepath.Join(s.dir, "pids")
	device := filepath.Join(dir, "device")
	s.must(os.Mkdir(dir, 0o755))
	s.must(os.Chown(dir, s.user, 0))
	s.must(unix.Mkfifo(device, 0o600))
	s.rules("config", string(template)+fmt.Sprintf("PidFile %q\n", device))
	s.pair()
	s.until("it is told", func() error {
		if !strings.Contains(s.daemon.log.String(), device+" is not a regular file") {
			return errors.New("not told")
		}
		return nil
	})
	if info, err := os.Lstat(device); err != nil || info.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("in the place of the device is %v, %v", info, err)
	}
	s.stop()
}

// TestFilesOnADeadFileSystem hold up nothing: here it is that of pid files.
func TestFilesOnADeadFileSystem(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	template, err := os.ReadFile("../../rules/builtin.conf")
	s.must(err)
	dead := filepath.Join(s.dir, "dead")
	s.rules("config", string(template)+fmt.Sprintf("PidFile \"%s/{vm_ip}\"\n", dead))
	revive := s.deadFileSystem(dead)
	s.pair()
	for range 3 {
		s.rules("work.10.137.0.11", shop)
		s.until("the change is in force", func() error {
			if r := s.Get("work", "http://bank.example/"); r.Status != 403 {
				return fmt.Errorf("status %d, %v", r.Status, r.Err)
			}
			return nil
		})
		s.opens("work", "http://shop.example/")
		s.detach("play")
		s.untilState("play", control.Waiting)
		s.attach("play", "10.137.0.12")
		s.opens("play", "http://shop.example/")
		s.rules("work.10.137.0.11", bank)
		s.opens("work", "http://bank.example/")
	}
	s.until("it is told", func() error {
		if !strings.Contains(s.daemon.log.String(), "cannot show which configuration serves") {
			return errors.New("not told")
		}
		return nil
	})
	revive()
	s.must(os.Chown(dead, s.user, 0))
	s.does("update")
	s.until("there is a pid file", func() error {
		s.does("update")
		text, err := os.ReadFile(filepath.Join(dead, "10.137.0.11"))
		if pid := s.show()["work"].PID; err == nil && strings.TrimSpace(string(text)) != fmt.Sprint(pid) {
			err = fmt.Errorf("%s, not %d", text, pid)
		}
		return err
	})
	s.stop()
}
