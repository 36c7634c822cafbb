package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/await"
	"vifproxy/internal/lab"
)

// fullPipe is a pipe that takes nothing more.
func (s *site) fullPipe() (r, w *os.File) {
	s.Helper()
	r, w, err := os.Pipe()
	s.must(err)
	s.Cleanup(func() { r.Close(); w.Close() })
	fd := int(w.Fd()) // blocking from now on, as the daemon's is
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, 4096)
	s.must(err)
	s.must(unix.SetNonblock(fd, true))
	for err == nil {
		_, err = unix.Write(fd, bytes.Repeat([]byte("x"), 100))
	}
	if !errors.Is(err, unix.EAGAIN) {
		s.Fatal(err)
	}
	s.must(unix.SetNonblock(fd, false))
	return r, w
}

// TestALogThatNobodyReads holds up nothing: AppVMs come, rules are taken back, verbs answer, systemd is told. What was lost
// is counted.
func TestALogThatNobodyReads(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	r, w := s.fullPipe()
	s.stderr = w
	s.pair()
	s.says("show", "problem: log: ")
	s.says("doctor", "log: what reads it has taken nothing")
	s.until("systemd is told", func() error {
		if !s.daemon.hasTold("log: what reads it") {
			return errors.New("not told")
		}
		return nil
	})
	client, play := control.NewClient(s.socket()), []string{"play"}
	for range 100 { // several lines each
		_, err := client.Stop(s.Context(), play)
		s.must(err)
		_, err = client.Start(s.Context(), play)
		s.must(err)
	}
	s.rules("work.10.137.0.11", shop)
	s.opens("work", "http://shop.example/")
	s.refuses("work", "http://bank.example/")

	var log lockedBuffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(&log, r) //nolint:errcheck // it ends when nobody writes any more
	}()
	s.until("what was lost is told", func() error { // until then there is no room for what is not urgent
		if !strings.Contains(log.String(), "messages are lost here") {
			return errors.New("not told")
		}
		return nil
	})
	s.until("nothing is wrong any more", func() error {
		if out, errs, _ := s.ctl("show"); strings.Contains(errs, "problem") {
			return errors.New(out + errs)
		}
		return nil
	})
	s.stop()
	w.Close()
	await.Value(s.T, "the end of the log", read)
	said := log.String()
	lost := regexp.MustCompile(`(?m)^[0-9]+ messages are lost here`).FindAllString(said, -1)
	if len(lost) != 1 || !strings.Contains(said, "vifproxyd stops") {
		t.Errorf("%q in a log of %d bytes that ends\n%s", lost, len(said), said[max(0, len(said)-1000):])
	}
}

// TestALogWhoseReaderHasGone does not end the daemon. Its end waits for no reader longer than a second.
func TestALogWhoseReaderHasGone(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	r, w := s.fullPipe()
	s.stderr = w
	s.startWork()
	r.Close()
	s.says("doctor", "log: write /dev/stderr: broken pipe")
	s.opens("work", "http://bank.example/")
	s.untilState("work", control.Running)

	first := s.daemon
	_, s.stderr = s.fullPipe()
	failing := s.launch() // there is one already
	await.Value(s.T, "the end of the second vifproxyd", failing.exited)
	if failing.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended: %v", failing.err)
	}
	s.daemon = first
	s.must(s.daemon.cmd.Process.Signal(syscall.SIGTERM))
	await.Value(s.T, "the end of vifproxyd", s.daemon.exited)
	s.nothingLeft()
}

// deadFileSystem mounts one at dir that answers nothing, until revive is called, after which all fails.
func (s *site) deadFileSystem(dir string) (revive func()) {
	s.Helper()
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		s.Skipf("no FUSE: %v", err)
	}
	s.must(os.Mkdir(dir, 0o755))
	s.must(unix.Mount("dead", dir, "fuse", 0,
		fmt.Sprintf("fd=%d,rootmode=40755,user_id=%d,group_id=0,allow_other", fuse, s.user)))
	revive = sync.OnceFunc(func() {
		unix.Close(fuse)
		if s.daemon != nil { // it has a mount namespace of its own
			s.must(exec.Command("nsenter", "--mount", "--root", fmt.Sprintf("--target=%d", s.daemon.cmd.Process.Pid),
				"umount", "--lazy", dir).Run())
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			s.Error(err)
		}
	})
	s.Cleanup(revive)
	return revive
}

// TestLogsOnADeadFileSystem hold up no proxy, and nothing of the daemon.
func TestLogsOnADeadFileSystem(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	template, err := os.ReadFile("../../rules/builtin.conf")
	s.must(err)
	dead := filepath.Join(s.dir, "dead")
	s.rules("config", strings.Replace(string(template), "{log_file}", dead+"/{vm_ip}", 1))
	revive := s.deadFileSystem(dead)
	s.pair()
	for i := range 100 {
		s.refuses("work", fmt.Sprintf("http://refused%d.example/", i))
	}
	s.until("all refused hosts are listed", func() error {
		if n := len(s.denied("work")["work"].Hosts); n != 100 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	s.says("show", "problem: logs of proxies: "+dead, "of play cannot be written", "and 1 more")
	s.detach("work")
	s.untilState("work", control.Waiting)
	s.attach("work", "10.137.0.11")
	s.opens("work", "http://bank.example/")
	revive()
	s.must(os.Chown(dead, s.user, 0))
	s.until("nothing is wrong any more", func() error {
		s.refuses("play", "http://bank.example/")
		s.refuses("work", "http://shop.example/")
		if _, errs, _ := s.ctl("show"); strings.Contains(errs, "problem") {
			return errors.New(errs)
		}
		return nil
	})
	log, err := os.ReadFile(filepath.Join(dead, "10.137.0.11"))
	if err != nil || !strings.Contains(string(log), " lines dropped here\n") {
		t.Errorf("%v: %s", err, log)
	}
	s.stop()
}
