package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
	"vifproxy/tinyproxy/vmlog"
)

// A Proxy is one tinyproxy process.
type Proxy struct {
	Spec rendered // without text and Render
	PID  int      // also the number of its process group and session

	launcher  *Launcher
	pidFile   os.FileInfo // that link wrote; belongs to the publisher
	filesLost bool        // its files were removed, and that was reported; guarded by launcher.mu
	binary    string
	cell      *confine.Cell // nil if it is not confined
	output    vmlog.Output
	log       *vmLog // nil for a trial
	socket    uint64 // that listens; written before it is ready
	pidfd     int    // belongs to the poller
	pipe      int    // with its output; belongs to the poller, then to cleanUp; -1 after the end
	done      chan struct{}
	err       error // why it ended; written before done is closed

	mu       sync.Mutex
	reaped   bool // PID may be another process by now
	stopped  bool // we asked for the end
	served   bool // it was ready: from then on its AppVM may own it, and nothing is decided by what it says
	whenDone []func()
	still    still
}

// Done is closed when the process and its process group are gone, and its files are removed.
func (p *Proxy) Done() <-chan struct{} { return p.done }

// WhenDone calls f when Done is closed, from another goroutine. Unlike a goroutine that waits for Done, this takes no stack.
func (p *Proxy) WhenDone(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		go f()
	default:
		p.whenDone = append(p.whenDone, f)
	}
}

// Err returns, after Done, why the proxy ended: nil if Stop or Kill was called, otherwise an *Error.
func (p *Proxy) Err() error {
	<-p.done
	return p.err
}

// Stop asks the proxy to end, kills it if it still runs after grace, and returns when Done is closed. tinyproxy cuts its
// connections on SIGTERM too, within 10 to 80 ms.
func (p *Proxy) Stop(grace time.Duration) {
	p.end(unix.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
		p.Kill()
	}
}

// Kill ends the proxy and its connections at once, and returns when Done is closed. That takes up to a second if a child has
// left the process group.
func (p *Proxy) Kill() {
	p.end(unix.SIGKILL)
	<-p.done
}

// end signals the whole group, because 1.10 serves its clients from child processes.
func (p *Proxy) end(sig unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		p.stopped = true
		_ = unix.Kill(-p.PID, sig)
		if sig == unix.SIGKILL && p.cell != nil {
			p.cell.Kill()
		}
	}
}

// run starts the process, confined or not. The caller has staged the files.
func (l *Launcher) run(program tinyproxy.Binary, spec rendered, log *vmLog) (*Proxy, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(pipe[1])
	_ = unix.SetNonblock(pipe[0], true) // on our side alone

	p := &Proxy{Spec: spec, launcher: l, log: log, binary: program.Path, pipe: pipe[0], done: make(chan struct{})}
	p.output = vmlog.Output{Level: spec.Config.LogLevel, Heard: spec.heard}
	if log != nil {
		p.output.Log, p.output.Requests = log.Log, tinyproxy.NewRequests(&p.Spec.Config, spec.UID, log.Denied, log.Visited)
		p.output.Requests.OnPass(log.Admitted)
	}
	argv := []string{program.Path, "-d", "-c", filepath.Join(l.options.RuntimeDir, portDir(spec), "config")}
	var err error
	if l.options.Sandbox != nil {
		err = p.confine(program, argv, pipe[1])
	} else {
		p.PID, p.pidfd, err = l.spawn(argv[0], argv, spec.UID, pipe[1])
	}
	if err != nil {
		unix.Close(p.pipe)
		return nil, err
	}
	l.mu.Lock()
	l.proxies[p] = true
	l.mu.Unlock()
	if err := l.poller.watch(p); err != nil {
		p.end(unix.SIGKILL)
		unix.Close(p.pidfd)
		p.cleanUp()
		return nil, err
	}
	return p, nil
}

// confine makes a recruit become the proxy.
func (p *Proxy) confine(program tinyproxy.Binary, argv []string, output int) error {
	cell, err := p.launcher.options.Sandbox.Prepare(p.launcher.boxFor(program, p.Spec))
	if err != nil {
		return fmt.Errorf("confine it: %w", err)
	}
	defer cell.Started()
	r, err := p.launcher.handOver(cell, p.Spec.UID, argv, output)
	if err != nil {
		return err
	}
	p.PID, p.pidfd, p.cell = r.pid, r.pidfd, cell
	return nil
}

// boxFor returns what a proxy may do, according to its configuration.
func (l *Launcher) boxFor(program tinyproxy.Binary, spec rendered) confine.Box {
	c := spec.Config
	b := confine.Box{
		Program: program.Path, Identity: program, Clients: c.MaxClients, Rules: spec.Size, TimerSlack: timerSlack,
		Read: append([]string{filepath.Join(l.options.RuntimeDir, portDir(spec))}, c.PageFiles...),
		Port: spec.Listen.Port(), Bind: []uint16{spec.Listen.Port()},
		Connect: slices.Concat([]uint16{53, 80, 443}, c.ConnectPorts, spec.ExtraPorts),
	}
	for _, up := range c.Upstreams() {
		b.Connect = append(b.Connect, up.Port)
	}
	if c.SetsSource {
		b.Bind = append(b.Bind, 0)
	}
	return b
}

// spawn forks and executes, on a thread that lives as long as the Launcher. The child has fds from 1 on.
func (l *Launcher) spawn(path string, argv []string, uid uint32, output int) (pid, pidfd int, err error) {
	done := make(chan struct{})
	fork := func() {
		defer close(done)
		out := uintptr(output)
		sys := attributes(&pidfd)
		sys.Credential = &syscall.Credential{Uid: uid, Gid: uid}
		pid, err = syscall.ForkExec(path, argv, &syscall.ProcAttr{
			Dir: "/", Env: tinyproxy.Environment, Files: []uintptr{l.null.Fd(), out, out}, Sys: sys,
		})
	}
	select {
	case l.forks <- fork:
		<-done
		return pid, pidfd, err
	case <-l.quit:
		return 0, -1, errors.New("launcher closed")
	}
}

// attributes are those of each process. It ends with the thread that starts it, which must live as long as the Launcher.
func attributes(pidfd *int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL, PidFD: pidfd}
}

// ready notes that the start of the process is complete.
func (p *Proxy) ready() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.served = true
}

const (
	// outputTimeout is how long the output of a process that has ended may be kept open by children that have left its group.
	outputTimeout = time.Second
	// Zombies of the group are waited for briefly.
	zombieTries = 50
	zombieDelay = time.Millisecond
)

// cleanUp removes what is left of a process that has ended and is no longer watched.
func (p *Proxy) cleanUp() {
	p.mu.Lock()
	// The process is a zombie until Wait4, so its number is still that of its group.
	_ = unix.Kill(-p.PID, unix.SIGKILL)
	var status syscall.WaitStatus
	_, err := syscall.Wait4(p.PID, &status, 0, nil)
	p.reaped = true
	stopped, served := p.stopped, p.served
	p.mu.Unlock()

	// Children that the signal killed end in their own time, and are not ours to wait for. The end of the pipe says that all
	// are dead, unless one has left the group and holds the pipe open.
	if p.pipe >= 0 {
		pipe := os.NewFile(uintptr(p.pipe), "output of "+p.Spec.Name)
		_ = pipe.SetReadDeadline(time.Now().Add(outputTimeout))
		_, _ = io.CopyBuffer(&p.output, io.LimitReader(pipe, lastWords), make([]byte, readAtOnce))
		pipe.Close()
	}
	p.output.End()
	if p.log != nil {
		p.log.Flush(flushTimeout)
	}
	p.launcher.discard(p.Spec.Listen)
	if p.cell != nil {
		if err := p.cell.Remove(); err != nil {
			p.launcher.options.Log.Warn("cgroup of an ended proxy stays", "vm", p.Spec.Name, "err", err)
		}
	}
	// An init that reaps slowly leaves zombies, which hold nothing.
	for range zombieTries {
		if errors.Is(unix.Kill(-p.PID, 0), unix.ESRCH) {
			break
		}
		time.Sleep(zombieDelay)
	}

	if !stopped {
		p.err = p.explain(status, err, served)
	}
	p.launcher.ended(p)
	p.mu.Lock()
	close(p.done)
	p.mu.Unlock()
	for _, f := range p.whenDone { // none is added after Done
		f()
	}
}

// explain returns an error for the way in which a proxy ended.
func (p *Proxy) explain(status syscall.WaitStatus, waitErr error, served bool) *Error {
	var e *Error
	switch {
	case waitErr != nil: // another part of this process waited for our child
		e = &Error{Text: fmt.Sprintf("tinyproxy (pid %d) ended with unknown status", p.PID), Err: waitErr}
	case served:
		e = explainServed(status)
	default:
		said := p.output.Said.Lines()
		if e = p.explainConfined(status, said); e == nil {
			e = explain(p.Spec, filepath.Join(p.launcher.options.RuntimeDir, portDir(p.Spec)), status, said)
		}
	}
	e.Doing, e.VM, e.Addr = "proxy", p.Spec.Name, p.Spec.Addr
	return e
}
