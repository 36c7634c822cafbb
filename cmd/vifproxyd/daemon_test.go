package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"vifproxy/internal/await"
)

// unit is what vifproxyd.service gives the daemon: a user, root's group, capabilities.
func (s *site) unit() []string {
	if s.user == 0 {
		return nil
	}
	const caps = "-all,+net_admin,+setuid,+setgid,+setpcap,+kill"
	return []string{"setpriv", fmt.Sprintf("--reuid=%d", s.user), "--regid=0", "--clear-groups", "--no-new-privs",
		"--inh-caps=" + caps, "--ambient-caps=" + caps, "--bounding-set=" + caps}
}

// vifproxyd prepares the daemon to run in the firewall VM.
func (s *site) vifproxyd(ctx context.Context, flags ...string) *exec.Cmd {
	command := slices.Concat(s.within, s.systemd(), s.unit(), []string{s.binary,
		"--rules-dir=" + s.rulesDir(), "--runtime-dir=" + s.runDir(), "--state-dir=" + s.stateDir(), "--control-socket=" + s.socket(),
		"--log-format=text", "--log-level=debug"}, flags)
	return s.Command(ctx, command[0], command[1:]...)
}

// running is a vifproxyd.
type running struct {
	cmd    *exec.Cmd
	log    *lockedBuffer
	exited chan struct{}
	err    error
	notify *net.UnixConn
	mu     sync.Mutex
	told   []string // what it told systemd
}

// startWork starts the daemon with one AppVM, work, that has bank's page open.
func (s *site) startWork() {
	s.Helper()
	s.rules("work.10.137.0.11", bank)
	s.attach("work", "10.137.0.11")
	s.start()
	s.opens("work", "http://bank.example/")
}

// start runs vifproxyd in the firewall VM as systemd would and waits until it says that it is ready.
func (s *site) start(flags ...string) {
	s.Helper()
	d := s.launch(flags...)
	s.until("the daemon is ready", func() error {
		select {
		case <-d.exited:
			s.Fatalf("vifproxyd has ended: %v", d.err)
		default:
		}
		if !d.hasTold("READY=1") {
			return errors.New("no READY=1 yet")
		}
		return nil
	})
}

func (s *site) launch(flags ...string) *running {
	s.Helper()
	path := filepath.Join(s.dir, "notify.sock")
	os.Remove(path)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	s.must(err)
	s.must(os.Chmod(path, 0o777))
	d := &running{
		cmd: s.vifproxyd(context.Background(), flags...),
		log: &lockedBuffer{}, exited: make(chan struct{}), notify: notify,
	}
	d.cmd.Env = append(slices.Concat(os.Environ(), s.env), "NOTIFY_SOCKET="+path)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if s.stderr != nil {
		d.cmd.Stderr = s.stderr
	}
	s.startInUnit(d.cmd)
	s.daemon = d
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := notify.Read(buffer)
			if err != nil {
				return
			}
			d.mu.Lock()
			d.told = append(d.told, string(buffer[:n]))
			d.mu.Unlock()
		}
	}()
	go func() {
		d.err = d.cmd.Wait()
		close(d.exited)
	}()
	s.Cleanup(func() {
		d.cmd.Process.Kill() //nolint:errcheck // it may have ended, as most tests have it do
		await.Value(s.T, "the end of a vifproxyd that was killed", d.exited)
		notify.Close()
		if text := d.log.String(); s.Failed() && text != "" {
			s.Logf("vifproxyd said:\n%s", text)
		}
		s.noRace(d)
	})
	return d
}

func (d *running) hasTold(state string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.told, func(s string) bool { return strings.Contains(s, state) })
}

// stop ends the daemon as systemd does, and checks that nothing of it is left.
func (s *site) stop() {
	s.Helper()
	s.must(s.daemon.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-s.daemon.exited:
	case <-time.After(patience):
		s.Fatal("vifproxyd does not end on SIGTERM")
	}
	if s.daemon.err != nil {
		text := s.daemon.log.String()
		s.Errorf("vifproxyd's end: %v; it said last:\n%s", s.daemon.err, text[max(0, len(text)-2000):])
	}
	s.nothingLeft()
}

// noRace checks what the race detector had to say.
func (s *site) noRace(d *running) {
	s.Helper()
	if text := d.log.String(); strings.Contains(text, "DATA RACE") {
		s.Errorf("data race in vifproxyd:\n%s", text)
	}
}

// crash ends the daemon with SIGKILL.
func (s *site) crash() {
	s.Helper()
	s.must(s.daemon.cmd.Process.Kill())
	await.Value(s.T, "the end of a vifproxyd that was killed", s.daemon.exited)
}

// lockedBuffer is a bytes.Buffer for one writer and readers meanwhile.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// takeTail empties the buffer and returns its last lines, at most n bytes of them.
func (b *lockedBuffer) takeTail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.b.Bytes()
	tail := string(text[max(0, len(text)-n):])
	b.b = bytes.Buffer{}
	return tail
}
