package proxies

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"time"

	"vifproxy/internal/events"
	"vifproxy/internal/policy"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
	"vifproxy/tinyproxy/leftover"
	"vifproxy/tinyproxy/limits"
	proc "vifproxy/tinyproxy/process"
)

const (
	StopGrace   = 2 * time.Second // from TERM to KILL
	reapTimeout = 5 * time.Second // until leftovers of an earlier run are gone

	// startTimeout is how long a proxy may take until it listens. It usually takes a few milliseconds, and a second or two on a
	// machine that boots twenty VMs.
	startTimeout = 10 * time.Second

	// startsPerCPU bounds how many starts go on at once. Most of a start is tinyproxy's own work, the rest is waiting, so a slow
	// one holds up none of the others.
	startsPerCPU = 16
)

// Tinyproxies starts the real proxies: it implements Starter.
type Tinyproxies struct {
	binary   string
	launcher *proc.Launcher
	sandbox  *confine.Sandbox
	users    *tinyproxy.Identities
	egress   []rules.Egress
	gates    gates
	slots    chan struct{}
	prompt   bool
}

// Options says how to start proxies.
type Options struct {
	Binary                string // the program
	RuntimeDir, CompatDir string // as proc.Options has them
	Users                 *tinyproxy.Identities
	Sandbox               *confine.Sandbox // that they run in, and which is Close's to close; nil to start none
	Egress                []rules.Egress   // of all proxies
	Switchboard           proc.Switchboard // nil for none
	Prompt                bool             // a program in the kernel sets TCP_NODELAY for their connections
}

// EndLeft ends the processes that an earlier run has left. Unless it succeeds, the fence around them has to stay.
func EndLeft(ctx context.Context, emitter *events.Emitter) error {
	return endLeft(ctx, emitter, leftover.Kill)
}

func endLeft(ctx context.Context, emitter *events.Emitter, end func(context.Context) (killed int, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	killed, err := end(ctx)
	if killed > 0 {
		emitter.Emit(events.Leftovers, events.About{Count: killed})
	}
	return err
}

// Launch prepares to start proxies, and ends those that an earlier run has left.
func Launch(ctx context.Context, emitter *events.Emitter, o Options) (*Tinyproxies, error) {
	launcher, err := proc.NewLauncher(proc.Options{
		RuntimeDir: o.RuntimeDir, CompatDir: o.CompatDir, Log: emitter.Log, OnDenied: emitter.Denied, OnVisit: emitter.Visited, OnAdmit: emitter.Admitted, Sandbox: o.Sandbox,
		Switchboard: o.Switchboard,
	})
	if err != nil {
		return nil, err
	}
	if err := endLeft(ctx, emitter, launcher.Reap); err != nil {
		launcher.Close()
		return nil, err
	}
	var lists *limits.Shelf
	if o.Sandbox != nil {
		lists = &limits.Shelf{Room: o.Sandbox.ListRoom()}
	}
	return &Tinyproxies{binary: o.Binary, launcher: launcher, sandbox: o.Sandbox, users: o.Users, egress: o.Egress,
		gates: gates{forAll: o.Egress, open: map[int64]*policy.Policy{}, lists: lists}, prompt: o.Prompt, slots: make(chan struct{}, startsPerCPU*runtime.NumCPU())}, nil
}

// Close ends the processes that still run, and removes what is ours from the runtime directory.
func (t *Tinyproxies) Close() {
	t.launcher.Close()
	if t.sandbox != nil {
		t.sandbox.Close()
	}
}

// Start implements Starter.
func (t *Tinyproxies) Start(ctx context.Context, p *policy.Policy, port uint16) (Proxy, error) {
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	uid := t.users.UID(p.Addr)
	shut, err := t.gates.of(ctx, p, uid)
	if err != nil {
		return nil, err
	}
	proxy, err := t.launcher.Start(ctx, t.binary, t.spec(p, uid, port))
	if err != nil {
		shut()
	}
	var problem *proc.Error
	switch {
	case errors.As(err, &problem) && problem.Config:
		return nil, BadPolicy{err}
	case problem != nil && problem.Taken:
		return nil, TakenPort{err}
	case err != nil:
		return nil, err
	}
	proxy.WhenDone(shut)
	return started{proxy, t.launcher, t.prompt}, nil
}

// spec returns what the launcher has to know of a policy.
func (t *Tinyproxies) spec(p *policy.Policy, uid uint32, port uint16) proc.Spec {
	lines, more := p.Written()
	return proc.Spec{
		Name: p.Name, Addr: p.Addr, Listen: netip.AddrPortFrom(p.Bind, port), UID: uid,
		Render: func(paths tinyproxy.Paths) (tinyproxy.Config, string, error) {
			config, text, err := p.Render(paths, port)
			return config, text + more, err
		},
		Rules: lines, Size: p.Size(), ExtraPorts: p.ConnectPorts(t.egress), RulesPath: p.RulesPath, TemplatePath: p.Template.Path,
	}
}

// Try implements Starter.
func (t *Tinyproxies) Try(ctx context.Context, p *policy.Policy, uid uint32, port uint16, q tinyproxy.Request) (Trial, error) {
	shut, err := t.gates.of(ctx, p, uid)
	if err != nil {
		return nil, err
	}
	trial, err := t.launcher.Try(ctx, t.binary, t.spec(p, uid, port), q)
	if err != nil {
		shut()
		return nil, err
	}
	return tried{trial, shut}, nil
}

// tried is a trial with its gate.
type tried struct {
	*proc.Trial
	shut func()
}

func (t tried) Kill() {
	t.Trial.Kill()
	t.shut()
}

// OnLogProblem sets a function that is called when LogProblem may return something else.
func (t *Tinyproxies) OnLogProblem(f func()) { t.launcher.OnLogProblem(f) }

// LogProblem returns which logs of proxies cannot be written, and why; nil if all can.
func (t *Tinyproxies) LogProblem() error { return t.launcher.LogProblem() }

// KeepFiles restores files that somebody removes from the runtime directory, until ctx ends; see proc.Launcher.
func (t *Tinyproxies) KeepFiles(ctx context.Context, told func(error)) {
	t.launcher.KeepFiles(ctx, told)
}

// KeepLimits restores limits of proxies that another program changes, until ctx ends; see confine.Sandbox.
func (t *Tinyproxies) KeepLimits(ctx context.Context, told func(error)) {
	if t.sandbox != nil {
		t.sandbox.KeepLimits(ctx, told)
	}
}

// Renewals returns a part of what processes depend on. Another text than before means that they have lost their files.
func (t *Tinyproxies) Renewals() string { return t.launcher.Renewals() }

// Forget implements Starter.
func (t *Tinyproxies) Forget(name string) { t.launcher.CloseLog(name) }

// started is a tinyproxy as the supervisor knows it.
type started struct {
	*proc.Proxy
	launcher *proc.Launcher
	prompt   bool
}

func (s started) Prompt() bool   { return s.prompt }
func (s started) PID() int       { return s.Proxy.PID }
func (s started) Stop()          { s.Proxy.Stop(StopGrace) }
func (s started) Current() error { return s.launcher.SetCurrent(s.Proxy) }

// A BadPolicy is the error of a start that fails because of rules or template, and would fail again.
type BadPolicy struct{ Err error }

func (e BadPolicy) Error() string { return e.Err.Error() }
func (e BadPolicy) Unwrap() error { return e.Err }

// IsBad reports whether an error is a BadPolicy.
func IsBad(err error) bool { return errors.As(err, new(BadPolicy)) }

// A TakenPort is the error of a start at a port that another process has.
type TakenPort struct{ Err error }

func (e TakenPort) Error() string { return e.Err.Error() }
func (e TakenPort) Unwrap() error { return e.Err }
