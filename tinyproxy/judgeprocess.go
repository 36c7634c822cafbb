package tinyproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/capability"
	"vifproxy/internal/sockdiag"
)

// command returns a tinyproxy that reads its configuration from the first of files, and the buffer that its output goes to.
func (j Judge) command(ctx context.Context, files []*os.File) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, j.Binary, "-d", "-c", "/proc/self/fd/3")
	said := new(bytes.Buffer)
	cmd.Env, cmd.Dir, cmd.ExtraFiles, cmd.WaitDelay = Environment, "/", files, outputTimeout
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if os.Geteuid() == 0 || capability.Have(unix.CAP_SETUID) { // else it is run by a user of vifproxyctl, as that user
		cmd.SysProcAttr.Credential = &nobody
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) } // 1.10 has children
	return cmd, said
}

// ask starts a tinyproxy that permits what lines match, or everything if there are none, and returns for each request whether
// it is refused.
func (j Judge) ask(ctx context.Context, lines []string, requests []Request, config []string) (refused []bool, err error) {
	err = onThreadWithoutCaps(func() (err error) {
		refused, err = j.askOne(ctx, lines, requests, config)
		return err
	})
	return refused, err
}

// askOne does what ask says, on a thread that ends after it.
func (j Judge) askOne(ctx context.Context, lines []string, requests []Request, config []string) ([]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	fail := func(err error) ([]bool, error) { return nil, fmt.Errorf("ask tinyproxy: %w", err) }

	closed, nowhere, err := reserve()
	if err != nil {
		return fail(err)
	}
	defer unix.Close(closed)
	reserved, at, err := reserve()
	if err != nil {
		return fail(err)
	}
	unix.Close(reserved) // for tinyproxy, which is there before anybody else is given this port of this address

	text := fmt.Sprintf("Listen %s\nPort %d\nAllow 127.0.0.0/8\nLogLevel Critical\nTimeout 10\nMaxClients 100\n"+
		"StartServers 1\nMinSpareServers 1\nMaxSpareServers 2\nUpstream http %s\n", at.Addr(), at.Port(), nowhere)
	text += strings.Join(config, "\n") + "\n"
	if lines != nil {
		text += "Filter \"/proc/self/fd/4\"\nFilterDefaultDeny Yes\n" + j.Filter.directives()
	}
	var files []*os.File
	for _, content := range []string{text, strings.Join(lines, "\n") + "\n"} {
		f, err := memoryFile(content)
		if err != nil {
			return fail(err)
		}
		defer f.Close()
		files = append(files, f)
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd, said := j.command(ctx, files)
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		close(ended)
	}()
	defer func() {
		stop()
		<-ended
	}()

	if err := awaitListener(ctx, at, ended); err != nil {
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == ExitFilter {
			return nil, badPatternIn(lines, said.String())
		}
		return fail(fmt.Errorf("%w%s", err, Quoted(strings.Split(strings.TrimSpace(said.String()), "\n"))))
	}
	refused := make([]bool, len(requests))
	for i, r := range requests {
		status, err := r.send(ctx, at)
		if err != nil {
			return fail(fmt.Errorf("%s: %w", r.Line(), err))
		}
		refused[i] = status == 403
	}
	return refused, nil
}

// reserve binds a port of a random loopback address without listening on it: the kernel refuses connections to it.
func reserve() (fd int, at netip.AddrPort, err error) {
	n := rand.Uint32()
	addr := netip.AddrFrom4([4]byte{127, 1 + byte(n)%254, byte(n >> 8), 1 + byte(n>>16)%254})
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, at, os.NewSyscallError("socket", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.As4()}); err == nil {
		var bound unix.Sockaddr
		if bound, err = unix.Getsockname(fd); err == nil {
			return fd, netip.AddrPortFrom(addr, uint16(bound.(*unix.SockaddrInet4).Port)), nil
		}
	}
	unix.Close(fd)
	return -1, at, os.NewSyscallError("bind", err)
}

func memoryFile(content string) (*os.File, error) {
	fd, err := unix.MemfdCreate("vifproxy-judge", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	if _, err := f.WriteString(content); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// awaitListener returns nil when somebody listens at an address, or the error with which the process ended.
func awaitListener(ctx context.Context, at netip.AddrPort, ended <-chan error) error {
	for wait := listenDelayMin; ; wait = min(wait*5/4, listenDelayMax) {
		s, err := sockdiag.Listener(at)
		if err != nil || s != nil {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case err := <-ended:
			timer.Stop()
			if err == nil {
				err = errors.New("it ended with status 0")
			}
			return err
		case <-timer.C:
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}
