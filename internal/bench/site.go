package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/bench/caller"
	"vifproxy/internal/lab"
)

// patience is how long something may take that should happen at once.
const patience = 30 * time.Second

// crowd is the one namespace that plays all AppVMs of a site, see lab.Through.
const crowd = "crowd"

// open is what rule files permit at first: an address, so that no name server is part of what is measured.
const (
	open     = "203.0.113.10"
	openLine = `^203\.0\.113\.10$`
)

// site is a lab with the daemon's directories in it and, mostly, the daemon.
type site struct {
	*lab.Lab
	dir     string
	control *control.Client
	domid   int
	daemon  *exec.Cmd
	exited  chan struct{}
	notes   *notes // to systemd; nil without
	profile string // directory that it writes profiles to; "" for none
}

// site returns the named site; the first who asks has it built, and prepared.
func (b *bench) site(name string, prepare func(*site) error) (*site, error) {
	if s := b.sites[name]; s != nil {
		return s, nil
	}
	l, err := lab.New(b.ctx, lab.Options{Name: "bench-" + name})
	if err != nil {
		return nil, err
	}
	s := &site{Lab: l, domid: 1}
	b.sites[name] = s
	if s.dir, err = os.MkdirTemp(inMemory(), "vifproxy-bench-"); err != nil { // proxies must be able to pass it
		return nil, err
	}
	if b.Profile != "" {
		s.profile = filepath.Join(s.dir, "profile")
		if err := os.Mkdir(s.profile, 0o755); err != nil {
			return nil, err
		}
	}
	s.control = control.NewClient(filepath.Join(s.dir, "control.sock"))
	if err := errors.Join(os.Chmod(s.dir, 0o755), os.Mkdir(s.rulesDir(), 0o755)); err != nil {
		return nil, err
	}
	// The kernel answers one refused packet a second; who waits for a proxy would wait a second for the next.
	if err := s.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/icmp_ratemask", []byte("0"), 0o644)
	}); err != nil {
		return nil, err
	}
	return s, prepare(s)
}

// inMemory is a directory in memory that everybody may pass, as /run is wherever vifproxyd runs for real. On a disk
// the few files of a proxy take forty times as long, and that would be part of each start.
func inMemory() string {
	const run = "/run"
	for _, dir := range []string{run, "/dev/shm"} {
		var fs unix.Statfs_t
		if unix.Statfs(dir, &fs) == nil && fs.Type == unix.TMPFS_MAGIC {
			return dir
		}
	}
	return run
}

// inhabited is a site with the daemon and n AppVMs, all of which are served.
func (b *bench) inhabited(n int) (*site, error) {
	return b.site(fmt.Sprint(n), func(s *site) error {
		for i := range n {
			if err := s.Attach(s.vm(i)); err != nil {
				return err
			}
			if err := s.save(i, openLine); err != nil {
				return err
			}
		}
		if err := s.start(b.ctx, b.Daemon); err != nil {
			return err
		}
		if err := s.untilRunning(b.ctx, n); err != nil {
			return err
		}
		return s.section(b, "") // their start is not what is measured
	})
}

func (s *site) close() error {
	if s.kill(); s.notes != nil {
		s.notes.socket.Close()
		<-s.notes.ended
	}
	return errors.Join(s.Close(), os.RemoveAll(s.dir))
}

func (s *site) rulesDir() string { return filepath.Join(s.dir, "rules") }

// vm is AppVM i on a vif of a new domain.
func (s *site) vm(i int) lab.VM {
	s.domid++
	return lab.VM{Name: crowd, IP: addr(i), DomID: s.domid}
}

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 137, byte(i / 250), byte(i%250 + 1)}) }

// save writes AppVM i's rule file as an editor does: a new file renamed over the old one.
func (s *site) save(i int, lines ...string) error {
	temp := filepath.Join(s.rulesDir(), ".new")
	if err := os.WriteFile(temp, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(s.rulesDir(), fmt.Sprintf("vm%d.%v", i, addr(i))))
}

// launch runs vifproxyd in the firewall VM.
func (s *site) launch(ctx context.Context, program string, env ...string) error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	s.daemon = s.Command(context.WithoutCancel(ctx), program, "--rules-dir="+s.rulesDir(), "--runtime-dir="+s.dir+"/run",
		"--control-socket="+s.dir+"/control.sock", "--log-format=text")
	s.daemon.Env = append(os.Environ(), append(env, "VIFPROXYD_PROFILE="+s.profile)...)
	s.daemon.Stdout, s.daemon.Stderr = log, log
	if err := s.daemon.Start(); err != nil {
		return err
	}
	s.exited = make(chan struct{})
	go func(daemon *exec.Cmd, exited chan struct{}) {
		daemon.Wait() //nolint:errcheck // ProcessState has it
		close(exited)
	}(s.daemon, s.exited)
	return nil
}

// start runs vifproxyd as systemd would and waits until it says that it is ready.
func (s *site) start(ctx context.Context, program string) error {
	path := filepath.Join(s.dir, "notify.sock")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	s.notes = &notes{socket: socket, ended: make(chan struct{})}
	go s.notes.listen()
	if err := s.launch(ctx, program, "NOTIFY_SOCKET="+path); err != nil {
		return err
	}
	err = until(ctx, "vifproxyd is ready", time.Millisecond, func() (bool, error) {
		_, ready := s.notes.find("READY=1")
		select {
		case <-s.exited:
			return false, errors.New("it has ended")
		default:
			return ready, nil
		}
	})
	if err != nil {
		said, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		return fmt.Errorf("%w; it said:\n%.5000s", err, said)
	}
	return nil
}

// stop ends vifproxyd as systemd does.
func (s *site) stop() error {
	if err := s.daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(patience):
		return errors.New("vifproxyd does not end")
	}
}

func (s *site) kill() {
	if s.daemon != nil && s.daemon.Process != nil {
		s.daemon.Process.Kill() //nolint:errcheck // it may have ended
		<-s.exited
	}
}

// untilRunning waits until n AppVMs are served and nothing is on its way.
func (s *site) untilRunning(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return until(ctx, fmt.Sprintf("%d AppVMs are served", n), 20*time.Millisecond, func() (bool, error) {
		status, err := s.control.Update(ctx)
		running := 0
		for _, vm := range status.VMs {
			if vm.State == control.Running {
				running++
			}
		}
		return running == n, err
	})
}

// untilAtRest waits until no proxy is on its way up or down, and no older process drains.
func (s *site) untilAtRest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := s.control.Update(ctx)
	return err
}

// from runs f with a client behind a vif.
func (s *site) from(vm lab.VM, f func(c caller.Caller) error) error {
	return s.Through(vm.Vif(), func(nic string) error { return f(caller.Caller{NIC: nic, Addr: vm.IP, Patience: caller.AnswerTime}) })
}

// until looks again and again.
func until(ctx context.Context, what string, every time.Duration, met func() (bool, error)) error {
	for end := time.Now().Add(patience); ; time.Sleep(every) {
		switch ok, err := met(); {
		case err != nil:
			return fmt.Errorf("wait until %s: %w", what, err)
		case ok:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(end):
			return fmt.Errorf("waited %v in vain until %s", patience, what)
		}
	}
}
