// Package process runs tinyproxy processes, one or more for an AppVM.
//
// A proxy is one process that never changes its mind. Its configuration and rules are written to a directory of its own. It
// starts under a uid of its own, and it counts as started when the kernel says that it listens and handles signals. Other
// rules mean another process on another port, because tinyproxy's own reload crashes under load; the start of that process
// is the check of the new rules. The caller decides which of several processes an AppVM reaches.
//
// Nothing outlives the daemon. Proxies are children with a parent-death signal, which the kernel sends when the thread that
// forked ends and not the process (prctl(2)), so a few threads that live as long as the Launcher do all the forking. Reap
// finds by uid, at the next start, what a proxy forked in its turn.
//
// The daemon may be root, or another user with CAP_SETUID, CAP_SETGID, CAP_SETPCAP and CAP_KILL, as in its unit. A proxy has
// no capability in either case.
//
// This package makes and removes these files. Its user can read all of them, and a proxy's gid what the proxy reads:
//
//	RUNTIME/NAME/61000/config  what tinyproxy runs with, while it runs
//	RUNTIME/NAME/61000/rules   what it reads as its filter: our copy, never the user's file
//	RUNTIME/NAME/61000/refused.html, unreached.html  what it answers where it gets no page; see errorPage
//	RUNTIME/NAME/config        symlink to the config of the process that serves the AppVM now
//	RUNTIME/NAME/pid           its pid, where the template has PidFile
//	RUNTIME/NAME/log, log.1    what the processes say; stays readable until Close, also when the VM has left
//
// Concurrency: a Launcher and its Proxies may be used from any goroutine, but the proxies of one AppVM start one after the
// other, and no call is under way during or after Close. Callbacks (OnDenied, OnLogProblem, WhenDone) come from goroutines of
// this package and must not wait.
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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/capability"
	"vifproxy/internal/events"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
	"vifproxy/tinyproxy/limits"
)

// starters is the number of threads that fork. Each is busy from fork to exec, about a millisecond, so a
// few keep a slow disk from holding up every start behind one.
const starters = 4

// recruitPause is until the next recruit is enlisted: the one that was handed over needs the processors now.
const recruitPause = 20 * time.Millisecond

// timerSlack is by how many nanoseconds the kernel may wake a proxy too late from a timed wait.
const timerSlack = 10_000_000

// Options are what a Launcher needs to know.
type Options struct {
	RuntimeDir string       // made if missing; nobody but us writes there
	CompatDir  string       // where a symlink NAME leads to RuntimeDir/NAME; "" for none
	Log        *slog.Logger // what no caller is told: trouble with logs and links
	// OnDenied is called for every request that was not served. An AppVM can make thousands a second: it must be cheap,
	// must not block, and what it keeps or passes on it must limit. May be nil.
	OnDenied func(events.Denial)
	Sandbox  *confine.Sandbox // that proxies run in; nil for none
}

// Launcher starts proxies and owns their runtime directory. Safe for concurrent use, except that
// the proxies of one VM are started one after the other.
type Launcher struct {
	options Options
	dir     *runtimeDir
	space   *space // in it
	null    *os.File

	forks    chan func()   // to the starter threads
	recruits chan *recruit // from one of them, if proxies are confined
	quit     chan struct{} // closed: starter threads end
	starters sync.WaitGroup
	starting atomic.Int32 // proxies that do not listen yet
	versions versions
	poller   *poller

	mu      sync.Mutex // nobody waits for a file system with it
	proxies map[*Proxy]bool
	// By VM name:
	current    map[string]*Proxy // the one that RUNTIME/NAME/config is to show
	publishers map[string]*publisher
	logs       map[string]*vmLog

	leftMu sync.Mutex
	left   map[string]bool // directories of proxies that have ended, which could not be removed

	onLogProblem atomic.Pointer[func()]
}

// A Spec is everything that decides what a proxy does.
type Spec struct {
	Name   string         // of the AppVM
	Addr   netip.Addr     // of the AppVM
	Listen netip.AddrPort // IPv4; the proxy must be configured to listen there
	UID    uint32         // from Identities
	// Render returns the configuration of a proxy with these files, and its text. An error is one of the template.
	Render func(tinyproxy.Paths) (tinyproxy.Config, string, error)
	Rules  []tinyproxy.FilterLine
	// ExtraPorts are TCP ports that it may connect to besides 53, 80, 443 and those that the configuration names, as far as
	// ConnectPort and its sandbox are concerned. The firewall says where they are.
	ExtraPorts []uint16

	RulesPath    string // the user's rule file, for messages
	TemplatePath string // the user's template, for messages; "" for the built-in one

	heard func(line string) // of a trial: what it says goes there, and not into the AppVM's log
}

// rendered is a Spec with its configuration.
type rendered struct {
	Spec
	Config tinyproxy.Config
	text   string // of the configuration; "" when it is in the file
}

// NewLauncher prepares the runtime directory and starts the threads that fork. Close ends them.
func NewLauncher(o Options) (*Launcher, error) {
	dir, err := filepath.Abs(o.RuntimeDir)
	if err != nil {
		return nil, fmt.Errorf("runtime directory: %w", err)
	}
	o.RuntimeDir = dir
	root, err := openRuntimeDir(dir)
	if err != nil {
		return nil, err
	}
	l := &Launcher{
		options: o, dir: &runtimeDir{path: dir},
		forks: make(chan func()), recruits: make(chan *recruit), quit: make(chan struct{}),
		proxies: make(map[*Proxy]bool), current: make(map[string]*Proxy), publishers: make(map[string]*publisher),
		left: make(map[string]bool),
		logs: make(map[string]*vmLog),
	}
	l.dir.open.Store(root)
	if l.space, err = newSpace(dir, l.root, o.Log); err != nil {
		root.Close()
		return nil, err
	}
	if l.null, err = os.Open(os.DevNull); err != nil {
		root.Close()
		return nil, fmt.Errorf("standard input for proxies: %w", err)
	}
	if l.poller, err = newPoller(); err != nil {
		l.null.Close()
		root.Close()
		return nil, fmt.Errorf("watch proxies: %w", err)
	}
	closeOnExec()
	ready := make(chan error)
	for i := range starters {
		l.starters.Go(func() { l.fork(ready, i == 0) })
	}
	for range starters {
		err = errors.Join(err, <-ready)
	}
	if err != nil {
		close(l.quit)
		l.starters.Wait()
		l.poller.close()
		l.null.Close()
		root.Close()
		return nil, fmt.Errorf("proxies would keep capabilities: %w", err)
	}
	return l, nil
}

// fork runs what Start hands it on a thread that ends only with the Launcher. If proxies are confined, one such
// thread keeps a recruit, so that a start finds it waiting.
func (l *Launcher) fork(ready chan<- error, recruits bool) {
	runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
	if l.options.Sandbox != nil {
		ready <- capability.Leave(unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP)
	} else {
		ready <- capability.Drop()
		recruits = false
		// A proxy inherits it across fork and exec, prctl(2). While an AppVM has MaxClients connections open, tinyproxy
		// waits for the end of one in a loop around usleep(16) (child_main_loop in src/child.c of 1.11): 40 % of a CPU
		// for as long as the AppVM likes, under 1 % with this. Only time-outs come later, data does not.
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0)
	}
	var spare *recruit
	var pause <-chan time.Time
	for {
		var offer chan *recruit
		if recruits && spare == nil && pause == nil {
			spare, _ = l.enlist() // else Start enlists one, and hears why that fails
		}
		if spare != nil {
			offer = l.recruits
		}
		select {
		case f := <-l.forks:
			f()
		case offer <- spare:
			spare, pause = nil, time.After(recruitPause)
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

// closeOnExec keeps what our own parent left open (sockets of systemd, a shell's files) from the proxies.
// What Go opens has the flag from the start.
func closeOnExec() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // no /proc, no processes to reap either: NewLauncher's caller hears of it from Reap
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

// Start runs binary as spec says and returns when it serves, or when ctx ends. An error is an *Error;
// after it nothing of the attempt is left but what it wrote to the VM's log.
func (l *Launcher) Start(ctx context.Context, binary string, spec Spec) (*Proxy, error) {
	return l.start(ctx, binary, spec, nil)
}

// start is Start with a change to the configuration; nil for none.
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
	program, err := tinyproxy.Identify(binary)
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
	if err == nil {
		err = l.stage(spec)
	}
	if err != nil {
		l.unstage(spec)
		return fail(&Error{Err: err, Remedy: l.storageRemedy(err)})
	}
	spec.text, spec.Render = "", nil // what is in the file need not be in memory for as long as the proxy runs
	p, err := l.run(program, spec, log)
	if err != nil {
		l.unstage(spec)
		return fail(cannotExecute(binary, spec, err))
	}
	if e := p.awaitReady(ctx); e != nil {
		p.Kill()
		if l.removed() { // which is no fault of rules or template
			e = &Error{Text: "somebody has removed " + l.dir.path + " meanwhile"}
		}
		return fail(e)
	}
	p.ready()
	return p, nil
}

func (l *Launcher) render(spec Spec) (r rendered, err error) {
	r.Spec = spec
	if r.Config, r.text, err = spec.Render(l.paths(spec.Name, spec.Listen.Port())); err == nil {
		r.text += r.Config.ConnectTo(spec.ExtraPorts)
	}
	return r, err
}

// check refuses a Spec that would run something other than it says.
func (l *Launcher) check(spec rendered) *Error {
	c, path := spec.Config, l.paths(spec.Name, spec.Listen.Port()).RulesFile
	wrong := func(text, remedy string) *Error {
		return &Error{Text: tinyproxy.TemplateName(spec.TemplatePath) + ": " + text, Remedy: remedy, Config: true}
	}
	switch {
	case filepath.Base(spec.Name) != spec.Name || strings.HasPrefix(spec.Name, "."):
		return &Error{Text: "no file can have that name", Config: true, Remedy: "rename the rule file"}
	case !spec.Listen.Addr().Is4() || !tinyproxy.IsProxyUID(spec.UID):
		return &Error{Text: fmt.Sprintf("cannot listen on %s as uid %d", spec.Listen, spec.UID)}
	case c.Port != spec.Listen.Port():
		return wrong(fmt.Sprintf("its Port is %d, not %d", c.Port, spec.Listen.Port()),
			`write "Port {port}", and no other Port`)
	case !slices.Contains(c.Listen, spec.Listen.Addr()):
		return wrong("it does not Listen on "+spec.Listen.Addr().String(), `write "Listen {bind_ip}"`)
	case c.RulesFile != path:
		return wrong(fmt.Sprintf("its Filter is %q, not the rules of the VM", c.RulesFile),
			`write Filter "{rules_file}", and no other Filter`)
	}
	for _, r := range spec.Rules {
		if strings.ContainsAny(r.Text, "\n\x00") {
			return &Error{Text: fmt.Sprintf("%s:%d: line break or NUL in %q", spec.RulesPath, r.Number, r.Text),
				Remedy: "remove it", Config: true}
		}
	}
	if l.options.Sandbox == nil {
		return nil
	}
	var tooMany *limits.TooManyClients
	var tooLong *limits.TooLong
	switch err := l.options.Sandbox.Fits(c.MaxClients, spec.size()); {
	case errors.As(err, &tooLong):
		return &Error{Text: spec.RulesPath, Err: err, Remedy: tooLong.Remedy, Config: true}
	case errors.As(err, &tooMany):
		where := tinyproxy.TemplateName(spec.TemplatePath)
		if c.MaxClientsLine > 0 {
			where = fmt.Sprintf("%s:%d", where, c.MaxClientsLine)
		}
		return &Error{Text: where, Err: err, Remedy: tooMany.Remedy, Config: true}
	}
	return nil
}

// storageRemedy says what to do about an error of the file system under the runtime directory.
func (l *Launcher) storageRemedy(err error) string {
	switch {
	case errors.Is(err, errNoSpace):
		return fmt.Sprintf("shorten the rule files, or enlarge the file system of %s; see df", l.options.RuntimeDir)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Sprintf("free space on the file system of %s; see df", l.options.RuntimeDir)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		return fmt.Sprintf("run as root, or with CAP_SETGID and with %s its own and writable", l.options.RuntimeDir)
	}
	return ""
}

// Close kills the proxies that still run, ends the starter threads and removes what is ours from the
// runtime directory, logs included. No other call may be under way or follow.
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
	close(l.quit)
	l.starters.Wait()
	l.poller.close()
	l.closeLogs()
	if err := l.clean(); err != nil {
		l.options.Log.Warn("runtime directory not clean", "err", err)
	}
	l.null.Close()
	l.root().Close()
}

// lastLines is how long Close waits for all logs to be written.
const lastLines = time.Second

func (l *Launcher) closeLogs() {
	l.mu.Lock()
	logs := slices.Collect(maps.Values(l.logs))
	l.mu.Unlock()
	over := time.Now().Add(lastLines)
	for _, log := range logs {
		log.close(time.Until(over))
	}
}
