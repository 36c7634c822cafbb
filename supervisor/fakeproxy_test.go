package supervisor

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
	"vifproxy/internal/sockdiag"
	"vifproxy/tinyproxy"
)

// fakeProxy is a process of a machine.
type fakeProxy struct {
	m      *machine
	policy *policy.Policy
	port   uint16
	done   chan struct{}
	told   []func() // when it is done
	err    error
	idle   bool
	more   int              // clients than the one that it has otherwise
	held   []netip.AddrPort // clients, while others wait
	deaf   error            // why it does not listen any more
}

func (m *machine) Start(ctx context.Context, p *policy.Policy, port uint16) (proxies.Proxy, error) {
	m.mu.Lock()
	// Lines as the tests write them: not anchored.
	rules := strings.NewReplacer("^[a-zA-Z0-9._-]*", "", "[a-zA-Z0-9._-]*$", "").Replace(p.String())
	m.did("start %s :%d", strings.TrimPrefix(rules, "vm"), port)
	var err error
	if m.startErr != nil {
		err = m.startErr(p)
	}
	delay := m.delay
	if m.stubborn {
		ctx = context.WithoutCancel(ctx)
	}
	m.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	proxy := &fakeProxy{m: m, policy: p, port: port, done: make(chan struct{})}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.alive[port] = proxy
	return proxy, nil
}

func (m *machine) Forget(string) {}

func (m *machine) Try(context.Context, *policy.Policy, uint32, uint16, tinyproxy.Request) (proxies.Trial, error) {
	return nil, errors.New("not on this machine")
}

func (p *fakeProxy) PID() int              { return 1000 + int(p.port) }
func (p *fakeProxy) Socket() uint64        { return uint64(p.port) }
func (p *fakeProxy) Prompt() bool          { return false }
func (p *fakeProxy) Done() <-chan struct{} { return p.done }
func (p *fakeProxy) Err() error            { return p.err }
func (p *fakeProxy) WhenDone(f func()) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	select {
	case <-p.done:
		go f()
	default:
		p.told = append(p.told, f)
	}
}
func (p *fakeProxy) Held(sockdiag.Listeners) ([]netip.AddrPort, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.held, nil
}
func (p *fakeProxy) Listens(sockdiag.Listeners) error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.deaf
}
func (p *fakeProxy) HasPort(all sockdiag.Listeners) error {
	if _, listens := all[netip.AddrPortFrom(p.policy.Bind, p.port)]; all != nil && !listens {
		return errors.New("it does not listen")
	}
	return p.Listens(all)
}
func (p *fakeProxy) Current() error {
	p.m.mu.Lock()
	takes := p.m.showTakes
	p.m.mu.Unlock()
	time.Sleep(takes)
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.m.showErr == nil {
		p.m.shown = p.port
	}
	return p.m.showErr
}
func (p *fakeProxy) Stop() { p.gone("stop", nil) }
func (p *fakeProxy) Kill() { p.gone("kill", nil) }
func (p *fakeProxy) Clients() ([]netip.AddrPort, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.idle {
		return nil, nil
	}
	var clients []netip.AddrPort
	for i := range 1 + p.more {
		clients = append(clients, netip.AddrPortFrom(p.policy.Addr, uint16(40000+i)))
	}
	return clients, nil
}

func (p *fakeProxy) gone(how string, err error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.m.alive[p.port] == p {
		delete(p.m.alive, p.port)
		p.m.did("%s :%d", how, p.port)
		p.err = err
		close(p.done)
		for _, f := range p.told {
			go f()
		}
	}
}
