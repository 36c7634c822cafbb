package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/capability"
	"vifproxy/internal/events"
	"vifproxy/internal/vanish"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
	"vifproxy/tinyproxy/leftover"
	"vifproxy/tinyproxy/vmlog"
)

// starterThreads is the number of threads that fork. Each is busy from fork to exec, about a millisecond. With several, a slow
// disk does not hold up all starts behind one.
const starterThreads = 4

// recruitDelay is the time until the next recruit is enlisted, because the one that has just become a proxy needs the CPU now.
const recruitDelay = 20 * time.Millisecond

// timerSlack is how many nanoseconds late the kernel may wake a proxy from a timed wait.
const timerSlack = 10_000_000

// Options are the settings of a Launcher.
type Options struct {
	RuntimeDir string       // made if missing; nobody but us writes there
	CompatDir  string       // where a symlink NAME leads to RuntimeDir/NAME; "" for none
	Log        *slog.Logger // trouble with logs and links, which no caller hears of
	// OnDenied is called for every request that was not served. An AppVM can make thousands a second, so it must be cheap,
	// must not block, and must limit what it keeps or passes on. May be nil.
	OnDenied func(events.Denial)
	// OnVisit is called for every connection that a proxy has made for its AppVM. The same holds for it.
	OnVisit func(events.Visit)
	// OnAdmit is called for every request that the list of an AppVM lets pass, before the proxy connects. The same holds for it.
	OnAdmit func(events.Visit)
	Sandbox *confine.Sandbox // of all proxies; nil for none

	// Switchboard hands connections to the sockets of proxies; nil if connections come to the ports where proxies listen.
	Switchboard Switchboard
}

// A Switchboard is the kernel's, see package switchboard.
type Switchboard interface {
	Expect(netip.AddrPort) error // before a proxy listens there
	Discard(netip.AddrPort)      // when nothing of it is left
	Listens(socket uint64) bool  // it has the socket, and hands connections to it if an AppVM is bound to it
	Port() uint16                // to which all AppVMs connect
}

// A Launcher starts proxies and owns their runtime directory.
type Launcher struct {
	options Options
	dir     *runtimeDir
	space   *vmlog.Space // in it
	null    *os.File

	forks    chan func()   // to the starter threads
	recruits chan *recruit // from one of these, if proxies are confined
	quit     chan struct{} // closed when starter threads have to end
	starters sync.WaitGroup
	starting atomic.Int32 // proxies that do not listen yet
	programs tinyproxy.Finder
	versions versions
	poller   *poller

	mu      sync.Mutex // never held while a file system is waited for
	proxies map[*Proxy]bool
	// By VM name:
	current    map[string]*Proxy // the one that RUNTIME/NAME/config should show
	publishers map[string]*publisher
	logs       map[string]*vmLog

	leftMu sync.Mutex
	left   map[string]bool // directories of ended proxies that could not be removed

	onLogProblem atomic.Pointer[func()]
}

// NewLauncher prepares the runtime directory and starts the threads that fork. Close ends them.
func NewLauncher(o Options) (_ *Launcher, err error) {
	if o.RuntimeDir, err = filepath.Abs(o.RuntimeDir); err != nil {
		return nil, fmt.Errorf("runtime directory: %w", err)
	}
	root, err := openRuntimeDir(o.RuntimeDir)
	if err != nil {
		return nil, err
	}
	l := &Launcher{
		options: o, dir: &runtimeDir{path: o.RuntimeDir, vanish: vanish.New()},
		forks: make(chan func()), recruits: make(chan *recruit), quit: make(chan struct{}),
		proxies: make(map[*Proxy]bool), current: make(map[string]*Proxy), publishers: make(map[string]*publisher),
		left: make(map[string]bool), logs: make(map[string]*vmLog),
	}
	l.dir.open.Store(root)
	defer func() {
		if err != nil {
			l.stop()
			l.release()
		}
	}()
	if l.space, err = vmlog.NewSpace(o.RuntimeDir, l.root, o.Log); err != nil {
		return nil, err
	}
	if l.null, err = os.Open(os.DevNull); err != nil {
		return nil, fmt.Errorf("standard input for proxies: %w", err)
	}
	if l.poller, err = newPoller(); err != nil {
		return nil, fmt.Errorf("watch proxies: %w", err)
	}
	closeOnExec()
	ready := make(chan error)
	for i := range starterThreads {
		l.starters.Go(func() { l.fork(ready, i == 0) })
	}
	for range starterThreads {
		err = errors.Join(err, <-ready)
	}
	if err != nil {
		return nil, fmt.Errorf("proxies would keep capabilities: %w", err)
	}
	return l, nil
}

// stop ends what goes on beside the callers.
func (l *Launcher) stop() {
	close(l.quit)
	l.starters.Wait()
	if l.poller != nil {
		l.poller.close()
	}
}

// release closes the files that NewLauncher has opened.
func (l *Launcher) release() {
	l.null.Close() // nil may be closed
	l.dir.vanish.Close()
	l.root().Close()
}

// fork runs what Start passes to it, on a thread that ends with the Launcher. If proxies are confined, one such thread keeps a
// recruit ready for the next start.
func (l *Launcher) fork(ready chan<- error, recruits bool) {
	runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
	if l.options.Sandbox != nil {
		ready <- capability.Leave(unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP)
	} else {
		ready <- capability.Drop()
		recruits = false
		// A proxy inherits it across fork and exec, prctl(2). While an AppVM has MaxClients connections open, tinyproxy waits
		// in a loop around usleep(16) (child_main_loop in src/child.c of 1.11). That takes 40 % of a CPU for as long as the
		// AppVM likes, and under 1 % with this slack. Only timeouts come later, data does not.
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0)
	}
	var spare *recruit
	var pause <-chan time.Time
	for {
		var offer chan *recruit
		if recruits && spare == nil && pause == nil {
			spare, _ = l.enlist() // on failure Start enlists one, and reports the error
		}
		if spare != nil {
			offer = l.recruits
		}
		select {
		case f := <-l.forks:
			f()
		case offer <- spare:
			spare, pause = nil, time.After(recruitDelay)
		case <-pause:
			pause = nil
		case <-l.quit:
			if spare != nil {
				spare.dismiss()
			}
			return
		}
	}
}

// closeOnExec keeps what our own parent left open (sockets of systemd, files of a shell) from the proxies. What Go opens has
// the flag from the start.
func closeOnExec() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // there is no /proc, which Reap reports
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// paths returns the files of a proxy for the named VM that listens on port.
func (l *Launcher) paths(name string, port uint16) tinyproxy.Paths {
	dir := filepath.Join(l.options.RuntimeDir, name)
	return tinyproxy.Paths{
		LogFile:   filepath.Join(dir, "log"),
		PidFile:   filepath.Join(dir, "pid"),
		RulesFile: filepath.Join(dir, strconv.Itoa(int(port)), "rules"),
	}
}

// Start runs binary as spec says, and returns when it serves or when ctx ends. An error is an *Error. After an error, nothing
// is left of the attempt but its lines in the VM's log.
func (l *Launcher) Start(ctx context.Context, binary string, spec Spec) (*Proxy, error) {
	return l.start(ctx, binary, spec, nil)
}

// start is Start with a change to the text of the configuration; nil for none.
func (l *Launcher) start(ctx context.Context, binary string, asked Spec, change func(c tinyproxy.Config, text string) string) (*Proxy, error) {
	fail := func(e *Error) (*Proxy, error) {
		e.Doing, e.VM, e.Addr = "start proxy", asked.Name, asked.Addr
		return nil, e
	}
	spec, err := l.render(asked)
	if err != nil {
		return fail(&Error{Err: err, Config: true})
	}
	if e := l.check(spec); e != nil {
		return fail(e)
	}
	if change != nil {
		spec.text = change(spec.Config, spec.text)
	}
	program, err := l.programs.InTurn(binary)
	if err != nil {
		return fail(&Error{Err: err})
	}
	if e := portFree(spec.Listen); e != nil {
		return fail(e)
	}
	if err := l.restore(); err != nil {
		return fail(&Error{Err: err})
	}
	if !l.versions.isOld(ctx, program) {
		spec.text = tinyproxy.WithoutObsolete(spec.text)
	}
	log, err := l.prepare(spec)
	if err != nil { // the directory is not there, or somebody else's
		return fail(&Error{Err: err, Remedy: l.storageRemedy(err)})
	}
	if err := l.stage(spec); err != nil {
		l.unstage(spec)
		return fail(&Error{Err: err, Remedy: l.storageRemedy(err)})
	}
	spec.text, spec.Render = "", nil // the file has it; memory need not, for as long as the proxy runs
	if s := l.options.Switchboard; s != nil {
		if err := s.Expect(spec.Listen); err != nil {
			l.unstage(spec)
			return fail(&Error{Err: err})
		}
	}
	p, err := l.run(program, spec, log)
	if err != nil {
		l.discard(spec.Listen)
		l.unstage(spec)
		return fail(cannotExecute(binary, spec, err))
	}
	if e := p.awaitReady(ctx); e != nil {
		p.Kill()
		if l.removed() { // which is not the fault of rules or template
			e = &Error{Text: "somebody has removed " + l.dir.path + " meanwhile"}
		}
		return fail(e)
	}
	p.ready()
	return p, nil
}

// discard takes back what the switchboard was told to expect.
func (l *Launcher) discard(at netip.AddrPort) {
	if s := l.options.Switchboard; s != nil {
		s.Discard(at)
	}
}

// storageRemedy returns what to do about an error of the file system under the runtime directory.
func (l *Launcher) storageRemedy(err error) string {
	switch {
	case errors.Is(err, vmlog.ErrNoSpace):
		return fmt.Sprintf("shorten the rule files, or enlarge the file system of %s; see df", l.options.RuntimeDir)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Sprintf("free space on the file system of %s; see df and df -i", l.options.RuntimeDir)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		return fmt.Sprintf("run as root, or with CAP_SETGID and with %s its own and writable", l.options.RuntimeDir)
	}
	return ""
}

// Reap ends what an earlier run left: processes with a uid of ours, and our files in the runtime directory. It returns how many
// processes it killed. Call it before the first Start, because it takes our own proxies for leftovers.
func (l *Launcher) Reap(ctx context.Context) (killed int, err error) {
	if killed, err = leftover.Kill(ctx); err != nil {
		return killed, err
	}
	return killed, l.clean()
}

// Close kills the proxies that still run, ends the starter threads, and removes our files from the runtime directory, logs
// included.
func (l *Launcher) Close() {
	l.mu.Lock()
	running := slices.Collect(maps.Keys(l.proxies))
	l.mu.Unlock()
	for _, p := range running {
		p.end(unix.SIGKILL)
	}
	for _, p := range running {
		<-p.done
	}
	l.stop()
	l.closeLogs()
	if err := l.clean(); err != nil {
		l.options.Log.Warn("runtime directory not clean", "err", err)
	}
	l.release()
}

// closeLogsTimeout is how long Close waits for all logs to be written.
const closeLogsTimeout = time.Second

func (l *Launcher) closeLogs() {
	l.mu.Lock()
	logs := slices.Collect(maps.Values(l.logs))
	l.mu.Unlock()
	over := time.Now().Add(closeLogsTimeout)
	for _, log := range logs {
		log.Close(time.Until(over))
	}
}
