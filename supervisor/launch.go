package supervisor

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"time"

	"vifproxy/internal/events"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
	proc "vifproxy/tinyproxy/process"
)

const (
	stopGrace = 2 * time.Second // from TERM to KILL
	reapBound = 5 * time.Second // until leftovers of an earlier run are gone

	// startsPerCPU bounds starts at a time. Most of a start is tinyproxy's own work; the rest is waiting, and a slow
	// one holds up none of the others.
	startsPerCPU = 16
)

// Tinyproxies are the real Proxies.
type Tinyproxies struct {
	binary   string
	launcher *proc.Launcher
	sandbox  *confine.Sandbox
	users    *tinyproxy.Identities
	egress   []rules.Egress
	slots    chan struct{}
}

// LaunchOptions say how to start proxies.
type LaunchOptions struct {
	Binary                string // the program
	RuntimeDir, CompatDir string // as proc.Options has them
	Users                 *tinyproxy.Identities
	Sandbox               *confine.Sandbox // that they run in, and which is Close's to close; nil to start none
	Egress                []rules.Egress   // of all proxies
}

// Launch makes ready to start proxies, and ends what an earlier run may have left.
func Launch(ctx context.Context, emitter *events.Emitter, o LaunchOptions) (*Tinyproxies, error) {
	launcher, err := proc.NewLauncher(proc.Options{
		RuntimeDir: o.RuntimeDir, CompatDir: o.CompatDir, Log: emitter.Log, OnDenied: emitter.Denied, Sandbox: o.Sandbox,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, reapBound)
	defer cancel()
	killed, err := launcher.Reap(ctx)
	if err != nil {
		launcher.Close()
		return nil, err
	}
	if killed > 0 {
		emitter.Emit(events.Leftovers, events.About{Count: killed})
	}
	return &Tinyproxies{binary: o.Binary, launcher: launcher, sandbox: o.Sandbox, users: o.Users, egress: o.Egress,
		slots: make(chan struct{}, startsPerCPU*runtime.NumCPU())}, nil
}

// Close ends what still runs and removes what is ours from the runtime directory.
func (t *Tinyproxies) Close() {
	t.launcher.Close()
	if t.sandbox != nil {
		t.sandbox.Close()
	}
}

// Start implements Proxies.
func (t *Tinyproxies) Start(ctx context.Context, p *Policy, port uint16) (Proxy, error) {
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	proxy, err := t.launcher.Start(ctx, t.binary, t.spec(p, t.users.UID(p.Addr), port))
	var problem *proc.Error
	switch {
	case errors.As(err, &problem) && problem.Config:
		return nil, badPolicy{err}
	case problem != nil && problem.Taken:
		return nil, takenPort{err}
	case err != nil:
		return nil, err
	}
	return started{proxy, t.launcher}, nil
}

// spec is what the launcher is told of a policy.
func (t *Tinyproxies) spec(p *Policy, uid uint32, port uint16) proc.Spec {
	return proc.Spec{
		Name: p.Name, Addr: p.Addr, Listen: netip.AddrPortFrom(p.Bind, port), UID: uid,
		Render: func(paths tinyproxy.Paths) (tinyproxy.Config, string, error) { return p.Render(paths, port) },
		Rules:  p.Rules, ExtraPorts: p.ConnectPorts(t.egress), RulesPath: p.RulesPath, TemplatePath: p.Template.Path,
	}
}

// Try implements Proxies.
func (t *Tinyproxies) Try(ctx context.Context, p *Policy, uid uint32, port uint16, q tinyproxy.Request) (Trial, error) {
	return t.launcher.Try(ctx, t.binary, t.spec(p, uid, port), q)
}

// OnLogProblem has f called when LogProblem may return something else.
func (t *Tinyproxies) OnLogProblem(f func()) { t.launcher.OnLogProblem(f) }

// LogProblem returns which logs of proxies cannot be written, and why; nil if all can.
func (t *Tinyproxies) LogProblem() error { return t.launcher.LogProblem() }

// KeepFiles makes files that somebody has removed from the runtime directory again until ctx ends; see proc.Launcher.
func (t *Tinyproxies) KeepFiles(ctx context.Context, told func(error)) {
	t.launcher.KeepFiles(ctx, told)
}

// Renewals is a part of what processes depend on: another text than before means that they have lost their files.
func (t *Tinyproxies) Renewals() string { return t.launcher.Renewals() }

// Forget implements Proxies.
func (t *Tinyproxies) Forget(name string) { t.launcher.CloseLog(name) }

// started is a tinyproxy as the supervisor knows it.
type started struct {
	*proc.Proxy
	launcher *proc.Launcher
}

func (s started) PID() int       { return s.Proxy.PID }
func (s started) Stop()          { s.Proxy.Stop(stopGrace) }
func (s started) Current() error { return s.launcher.SetCurrent(s.Proxy) }

// badPolicy is the error of a start that fails because of rules or template, and would fail again.
type badPolicy struct{ error }

func (e badPolicy) Unwrap() error { return e.error }

func isBad(err error) bool { return errors.As(err, new(badPolicy)) }

// takenPort is the error of a start at a port that somebody else has.
type takenPort struct{ error }

func (e takenPort) Unwrap() error { return e.error }
