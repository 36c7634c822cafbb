package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/netwatch"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// machine is a firewall VM of values: what the loop reads, and what it does, in order, as text.
type machine struct {
	t *testing.T
	*Supervisor
	ctx context.Context

	mu        sync.Mutex
	links     netwatch.Snapshot
	linksErr  error
	dir       string
	rulesErr  error
	bindings  []firewall.Binding
	fwErr     error
	fence     string
	refused   map[uint32]uint64
	resolvers []netip.Addr
	hosts     map[string]netip.Addr
	syncs     int
	alive     map[uint16]*fakeProxy
	journal   []string
	notified  []string
	startErr  func(*Policy) error
	showErr   error
	shown     uint16        // the port of the proxy that the files tell of
	delay     time.Duration // until a proxy listens
}

func (m *machine) did(format string, args ...any) {
	m.journal = append(m.journal, fmt.Sprintf(format, args...))
}

// took returns what was done since the last call.
func (m *machine) took() string {
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	lines := m.journal
	m.journal = nil
	for i := range lines { // ends run side by side: their order means nothing
		for j := i; j > 0 && isEnd(lines[j]) && isEnd(lines[j-1]) && lines[j] < lines[j-1]; j-- {
			lines[j], lines[j-1] = lines[j-1], lines[j]
		}
	}
	return strings.Join(lines, "\n")
}

// set changes the machine under the loop's feet.
func (m *machine) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// proxy is the one that runs for an AppVM.
func (m *machine) proxy(name string) *fakeProxy {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.alive {
		if p.policy.Name == name {
			return p
		}
	}
	m.t.Fatalf("no proxy of %s", name)
	return nil
}

func (m *machine) String() string { return "fake" }

func (m *machine) Sync(_ context.Context, state firewall.State, inForce func()) (int, error) {
	writes, err := m.write(state)
	if err == nil {
		inForce()
	}
	return writes, err
}

func (m *machine) write(state firewall.State) (int, error) {
	want := state.Bindings
	m.mu.Lock()
	defer m.mu.Unlock()
	m.syncs++
	if m.fwErr != nil {
		return 0, m.fwErr
	}
	for _, b := range want {
		if p := m.alive[b.To.Port()]; p == nil || p.policy.Addr != b.Addr {
			m.t.Errorf("%v is bound to a port where no proxy of its own listens", b)
		}
	}
	writes := 0
	for _, b := range m.bindings {
		if !slices.Contains(want, b) {
			m.did("unbind %s %s :%d", b.Vif, b.Addr, b.To.Port())
			writes++
		}
	}
	for _, b := range want {
		if !slices.Contains(m.bindings, b) {
			m.did("bind %s %s :%d", b.Vif, b.Addr, b.To.Port())
			writes++
		}
	}
	m.bindings = slices.Clone(want)
	if fence := printed(state.Fence); fence != m.fence {
		if writes++; m.fence != "" || fence != "" {
			m.did("fence %s", fence)
		}
		m.fence = fence
	}
	return writes, nil
}

func (m *machine) Refused(context.Context) (map[uint32]uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.refused), nil
}

// printed is what is open in a fence besides the usual.
func printed(f firewall.Fence) string {
	var parts []string
	for _, port := range f.Ports {
		if port == 80 || port == 443 {
			continue
		}
		parts = append(parts, fmt.Sprintf("all :%d", port))
	}
	for _, h := range f.Holes {
		parts = append(parts, fmt.Sprintf("all %s:%d", h.To, h.Port))
	}
	for _, p := range f.Proxies {
		for _, h := range p.Holes {
			parts = append(parts, fmt.Sprintf("%x %s:%d", p.UID, h.To, h.Port))
		}
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), ", ")
}

func (m *machine) Remove(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.did("firewall removed")
	return nil
}

type fakeProxy struct {
	m      *machine
	policy *Policy
	port   uint16
	done   chan struct{}
	err    error
	idle   bool
	deaf   error // why it does not listen any more
}

func (m *machine) Start(ctx context.Context, p *Policy, port uint16) (Proxy, error) {
	m.mu.Lock()
	m.did("start %s :%d", strings.TrimPrefix(p.String(), "vm"), port)
	var err error
	if m.startErr != nil {
		err = m.startErr(p)
	}
	delay := m.delay
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

func (p *fakeProxy) PID() int              { return 1000 + int(p.port) }
func (p *fakeProxy) Done() <-chan struct{} { return p.done }
func (p *fakeProxy) Err() error            { return p.err }
func (p *fakeProxy) Listens() error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.deaf
}
func (p *fakeProxy) Current() error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.m.showErr == nil {
		p.m.shown = p.port
	}
	return p.m.showErr
}
func (p *fakeProxy) Stop() { p.gone("stop", nil) }
func (p *fakeProxy) Kill() { p.gone("kill", nil) }
func (p *fakeProxy) Clients() (int, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.idle {
		return 0, nil
	}
	return 1, nil
}

func (p *fakeProxy) gone(how string, err error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.m.alive[p.port] == p {
		delete(p.m.alive, p.port)
		p.m.did("%s :%d", how, p.port)
		p.err = err
		close(p.done)
	}
}

// run runs f with a supervisor around it, in a bubble whose clock moves only when everybody waits.
func run(t *testing.T, f func(m *machine)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{t: t, dir: dir, alive: map[uint16]*fakeProxy{}, delay: 3 * time.Millisecond}
		ctx, cancel := context.WithCancel(t.Context())
		m.ctx = ctx
		m.Supervisor = New(Config{
			ReadLinks: func() (netwatch.Snapshot, error) {
				m.mu.Lock()
				defer m.mu.Unlock()
				return m.links, m.linksErr
			},
			ReadRules: func() (rules.Set, error) {
				m.mu.Lock()
				defer m.mu.Unlock()
				if m.rulesErr != nil {
					return rules.Set{}, m.rulesErr
				}
				return rules.Read(m.dir, filepath.Join(m.dir, "config"))
			},
			ReadBinary: func() (tinyproxy.Binary, error) { return tinyproxy.Binary{}, nil },
			ReadResolvers: func() ([]netip.Addr, error) {
				m.mu.Lock()
				defer m.mu.Unlock()
				return m.resolvers, nil
			},
			LookUp: func(ctx context.Context, name string) ([]netip.Addr, error) {
				select {
				case <-time.After(50 * time.Millisecond): // name servers take longer than processes
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				m.mu.Lock()
				defer m.mu.Unlock()
				if addr, ok := m.hosts[name]; ok {
					return []netip.Addr{addr}, nil
				}
				return nil, errors.New("no such host " + name)
			},
			Firewall: m, Forget: func([]firewall.Binding) (int, error) { return 0, nil }, Proxies: m, Users: new(tinyproxy.Identities),
			Ports: PortRange{1, 100}, Limits: limits, Interval: 30 * time.Second,
			Notify: func(state string) {
				m.mu.Lock()
				defer m.mu.Unlock()
				if state != "WATCHDOG=1" {
					m.notified = append(m.notified, state)
				}
			},
			Events: NewEvents(slog.New(slog.DiscardHandler)),
		})
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		synctest.Wait()
		f(m)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if len(m.alive) > 0 || len(m.bindings) > 0 {
			t.Errorf("left over: %v, %v", m.alive, m.bindings)
		}
	})
}

func (m *machine) file(name string, lines ...string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(strings.Join(append(lines, ""), "\n")), 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.Wake(Rules)
}

func (m *machine) remove(name string) {
	m.t.Helper()
	if err := os.Remove(filepath.Join(m.dir, name)); err != nil {
		m.t.Fatal(err)
	}
	m.Wake(Rules)
}

// connect makes the connected AppVMs those given as "vif1.0 10.137.0.1".
func (m *machine) connect(vifs ...string) {
	m.mu.Lock()
	m.links = nil
	for _, v := range vifs {
		vif, addr, _ := strings.Cut(v, " ")
		ip := netip.MustParseAddr(addr)
		if i := slices.IndexFunc(m.links, func(vm netwatch.AppVM) bool { return vm.Addr == ip }); i >= 0 {
			m.links[i].Vifs = append(m.links[i].Vifs, vif)
			continue
		}
		m.links = append(m.links, netwatch.AppVM{Addr: ip, Gateway: gateway, Vifs: []string{vif}})
	}
	m.mu.Unlock()
	m.Wake(Links)
}

// after lets time pass and returns what was done in it.
func (m *machine) after(d time.Duration) string {
	time.Sleep(d) // of the bubble's clock: it takes no time
	return m.took()
}

func isEnd(line string) bool {
	return strings.HasPrefix(line, "kill ") || strings.HasPrefix(line, "stop ")
}

func (m *machine) expect(got, want string) {
	m.t.Helper()
	if want = strings.TrimSpace(strings.ReplaceAll(want, "\t", "")); got != want {
		m.t.Errorf("done:\n%s\nwant:\n%s", got, want)
	}
}

func (m *machine) vm(name string) control.VM {
	m.t.Helper()
	status, err := m.Status(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	i := slices.IndexFunc(status.VMs, func(vm control.VM) bool { return vm.Name == name })
	if i < 0 {
		m.t.Fatalf("no %s in %+v", name, status)
	}
	return status.VMs[i]
}

func TestUpAndDownInOrder(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.expect(m.after(time.Second), "")
		if got := m.vm("social").State; got != control.Waiting {
			t.Errorf("not connected: %s", got)
		}
		m.connect("vif1.0 10.137.0.1")
		m.expect(m.after(time.Second), `start social (10.137.0.1) at 10.138.1.1: a :1
			bind vif1.0 10.137.0.1 :1`)
		if vm := m.vm("social"); vm.State != control.Running || vm.PID != 1001 || vm.Port != 1 {
			t.Errorf("running: %+v", vm)
		}
		m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.1")
		m.expect(m.after(time.Second), "bind vif2.0 10.137.0.1 :1")
		m.connect("vif2.0 10.137.0.1")
		m.expect(m.after(time.Second), "unbind vif1.0 10.137.0.1 :1")
		m.connect()
		m.expect(m.after(time.Second), "unbind vif2.0 10.137.0.1 :1\nstop :1")
	})
}

func TestChangeMovesTheBindingOnceTheNewOneListens(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)

		m.file("social.10.137.0.1", "a", "b")
		m.expect(m.after(time.Second), `start social (10.137.0.1) at 10.138.1.1: a b :2
			unbind vif1.0 10.137.0.1 :1
			bind vif1.0 10.137.0.1 :2`)
		m.expect(m.after(10*time.Minute), "")
		m.set(func() { m.alive[1].idle = true })
		m.expect(m.after(2*time.Second), "stop :1")

		m.file("social.10.137.0.1", "b")
		m.expect(m.after(time.Second), `start social (10.137.0.1) at 10.138.1.1: b :3
			unbind vif1.0 10.137.0.1 :2
			bind vif1.0 10.137.0.1 :3
			kill :2`)
		m.file("social.10.137.0.1", "# a comment", "b")
		m.expect(m.after(time.Minute), "")
	})
}

func TestBadInputsKeepTheLastGood(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.file("work.10.137.0.2", "w")
		m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
		m.after(time.Second)

		m.file("social.10.137.0.1", "a b") // white space: refused by us
		m.expect(m.after(time.Minute), "")
		if vm := m.vm("social"); vm.State != control.Running || !strings.Contains(vm.Error, "social.10.137.0.1:1") {
			t.Errorf("own parse: %+v", vm)
		}

		m.set(func() {
			m.startErr = func(p *Policy) error {
				if p.Rules[0].Text == "[" {
					return badPolicy{errors.New("bad regex at line 1")}
				}
				return nil
			}
		})
		m.file("social.10.137.0.1", "[") // refused by tinyproxy
		got := m.after(250 * time.Millisecond)
		if n := strings.Count(got, "start social"); n != 2 || strings.Contains(got, "unbind") || strings.Contains(got, "kill") {
			t.Errorf("tinyproxy's refusal, tried twice so far:\n%s", got)
		}
		if vm := m.vm("social"); vm.State != control.Running || vm.Error != "bad regex at line 1" {
			t.Errorf("tinyproxy's refusal: %+v", vm)
		}

		m.file("config", "{port}") // for all
		m.after(time.Second)
		for _, name := range []string{"social", "work"} {
			if vm := m.vm(name); vm.State != control.Running || !strings.Contains(vm.Error, "config") {
				t.Errorf("template: %+v", vm)
			}
		}

		m.proxy("social").gone("die", errors.New("killed")) // and it is the last good one that comes back
		got = m.after(time.Second)
		if !strings.Contains(got, "start social (10.137.0.1) at 10.138.1.1: a :") || !strings.Contains(got, "bind vif1.0") {
			t.Errorf("after the last good one died:\n%s", got)
		}

		m.remove("config")
		m.file("social.10.137.0.1", "c")
		m.after(time.Second)
		if vm := m.vm("social"); vm.State != control.Running || vm.Error != "" {
			t.Errorf("mended: %+v", vm)
		}
	})
}

func TestWithoutALastGoodThereIsNone(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a b")
		m.connect("vif1.0 10.137.0.1")
		m.expect(m.after(time.Minute), "")
		if vm := m.vm("social"); vm.State != control.Refused || vm.PID != 0 {
			t.Errorf("%+v", vm)
		}
	})
}

func TestDeathUnbindsAndComesBack(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Minute)
		m.proxy("social").gone("die", errors.New("killed"))
		m.expect(m.after(time.Second), `die :1
			unbind vif1.0 10.137.0.1 :1
			start social (10.137.0.1) at 10.138.1.1: a :2
			bind vif1.0 10.137.0.1 :2`)
		if vm := m.vm("social"); vm.Restarts != 1 {
			t.Errorf("%+v", vm)
		}
	})
}

func TestFailingStartsBackOff(t *testing.T) {
	run(t, func(m *machine) {
		m.set(func() { m.startErr = func(*Policy) error { return errors.New("tinyproxy is missing") } })
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		got := m.after(10 * time.Minute)
		if n := strings.Count(got, "start "); n < 20 || n > 40 {
			t.Errorf("%d starts in ten minutes", n)
		}
		if vm := m.vm("social"); vm.State != control.Failed || vm.Error != "tinyproxy is missing" {
			t.Errorf("%+v", vm)
		}
		m.set(func() { m.startErr = nil })
		status, err := m.Update(m.ctx)
		if err != nil || status.VMs[0].State != control.Running || status.VMs[0].Error != "" {
			t.Errorf("update tries at once: %+v, %v", status, err)
		}
	})
}

func TestWhatCannotBeReadChangesNothing(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.linksErr, m.rulesErr = errors.New("no netlink"), errors.New("permission denied") })
		m.remove("social.10.137.0.1")
		m.connect()
		m.expect(m.after(time.Minute), "")
		status, err := m.Status(m.ctx)
		if err != nil || len(status.Problems) != 2 {
			t.Errorf("%+v, %v", status, err)
		}
		m.set(func() { m.rulesErr = nil }) // the AppVM still seems to be there: the end is at once
		m.expect(m.after(time.Minute), "unbind vif1.0 10.137.0.1 :1\nkill :1")
		m.set(func() { m.linksErr = nil })
		m.expect(m.after(time.Minute), "")
	})
}

func TestFirewallFailureClosesAndIsRetried(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a", "b")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.fwErr = errors.New("nft: busy") })
		m.file("social.10.137.0.1", "a")
		got := m.after(50 * time.Millisecond)
		if !strings.Contains(got, "kill :1") {
			t.Errorf("the process with the revoked line must go, bound or not:\n%s", got)
		}
		m.set(func() { m.fwErr = nil })
		m.expect(m.after(time.Minute), "unbind vif1.0 10.137.0.1 :1\nbind vif1.0 10.137.0.1 :2")
	})
}

func TestFilesThatCouldNotBeWrittenAreWrittenLater(t *testing.T) {
	run(t, func(m *machine) {
		m.set(func() { m.showErr = errors.New("no space left on device") })
		m.file("a.10.0.0.1", "x")
		m.connect("vif1.0 10.0.0.1")
		m.Update(m.ctx)
		m.set(func() { m.showErr = nil })
		m.Update(m.ctx)
		if m.set(func() {}); m.shown != m.proxy("a").port {
			t.Errorf("files tell of port %d, not of %d", m.shown, m.proxy("a").port)
		}
	})
}

func TestVerbs(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.file("work.10.137.0.2", "w")
		m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
		m.after(time.Second)
		step := func(what string, f func() (control.Status, error), social, work string) {
			t.Helper()
			status, err := f()
			if err != nil || status.VMs[0].State != social || status.VMs[1].State != work {
				t.Errorf("%s: %+v, %v; want %s and %s", what, status, err, social, work)
			}
		}
		step("stop", func() (control.Status, error) { return m.Stop(m.ctx, []string{"social"}) }, control.Stopped, control.Running)
		m.took()
		m.expect(m.after(time.Hour), "")
		if err := m.Reload(m.ctx); err != nil {
			t.Error(err)
		}
		if got := m.vm("social").State; got != control.Stopped {
			t.Errorf("SIGHUP let go what is held: %s", got)
		}
		step("start", func() (control.Status, error) { return m.Supervisor.Start(m.ctx, []string{"social"}) }, control.Running, control.Running)
		m.took()
		step("restart", func() (control.Status, error) { return m.Restart(m.ctx, []string{"work"}) }, control.Running, control.Running)
		m.expect(m.took(), `start work (10.137.0.2) at 10.138.1.1: w :4
			unbind vif2.0 10.137.0.2 :2
			bind vif2.0 10.137.0.2 :4`)
		step("kill-all", func() (control.Status, error) { return m.KillAll(m.ctx, false) }, control.Stopped, control.Stopped)
		if len(m.alive) != 0 {
			t.Errorf("kill-all left %v", m.alive)
		}
		step("update", func() (control.Status, error) { return m.Update(m.ctx) }, control.Running, control.Running)
		step("kill-all-and-restart", func() (control.Status, error) { return m.KillAll(m.ctx, true) }, control.Running, control.Running)
		var unknown *control.UnknownError
		if _, err := m.Stop(m.ctx, []string{"social", "nobody"}); !errors.As(err, &unknown) {
			t.Errorf("unknown name: %v", err)
		}
		if got := m.vm("social").State; got != control.Running {
			t.Errorf("an unknown name stopped the known ones: %s", got)
		}
	})
}

func TestReadyComesAfterTheFirstReconcile(t *testing.T) {
	run(t, func(m *machine) {
		if len(m.notified) != 2 || m.notified[1] != "READY=1" {
			t.Errorf("%q", m.notified)
		}
		m.after(time.Hour)
		if len(m.notified) != 2 {
			t.Errorf("an hour of nothing was news: %q", m.notified)
		}
	})
}

func TestIdleLoopRests(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Minute)
		m.set(func() { m.syncs = 0 })
		m.expect(m.after(time.Hour), "")
		if m.syncs > 120 {
			t.Errorf("%d rounds in an hour of nothing, want one every 30 s", m.syncs)
		}
	})
}

func TestHintsOfAnotherManagerDoNotMakeAFight(t *testing.T) {
	run(t, func(m *machine) {
		m.after(time.Minute)
		m.set(func() { m.syncs = 0 })
		for range 1000 {
			m.Wake(Firewall)
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if m.syncs > 2 {
			t.Errorf("%d looks at the firewall in a second of hints", m.syncs)
		}
	})
}

func TestOneThatComesUpAndDiesBacksOff(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		starts := 0
		for range 600 {
			starts += strings.Count(m.after(time.Second), "start ")
			m.set(func() {
				for _, p := range m.alive {
					go p.gone("die", errors.New("ended by itself with status 0"))
				}
			})
		}
		m.took() // until the last death is known
		if starts > 40 {
			t.Errorf("%d starts in ten minutes of a proxy that never stays up", starts)
		}
		if vm := m.vm("social"); vm.State != control.Failed || vm.Error != "ended by itself with status 0" {
			t.Errorf("%+v", vm)
		}
		m.after(time.Minute)
		if vm := m.vm("social"); vm.State != control.Running || vm.Error != "" {
			t.Errorf("it stays up now: %+v", vm)
		}
		m.proxy("social").gone("die", errors.New("killed"))
		m.after(50 * time.Millisecond)
		if vm := m.vm("social"); vm.State != control.Running {
			t.Errorf("one that served for long is back at once: %+v", vm)
		}
	})
}

func TestDeafProxyIsReplaced(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Minute)
		p := m.proxy("social")
		m.set(func() { p.deaf = errors.New("another process listens") })
		got := m.after(40 * time.Second)
		if !strings.HasPrefix(got, "unbind vif1.0 10.137.0.1 :1\n") || !strings.Contains(got, "kill :1\n") ||
			!strings.HasSuffix(got, "bind vif1.0 10.137.0.1 :2") {
			t.Errorf("done:\n%s", got)
		}
		if vm := m.vm("social"); vm.State != control.Running || vm.Restarts != 1 {
			t.Errorf("%+v", vm)
		}
	})
}

func TestVerbsDoNotWaitForOthers(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.delay = time.Hour })
		m.file("work.10.137.0.2", "a")
		m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
		m.after(time.Second)
		m.set(func() { m.delay = time.Millisecond })
		ctx, cancel := context.WithTimeout(m.ctx, time.Minute)
		defer cancel()
		if _, err := m.Restart(ctx, []string{"social"}); err != nil {
			t.Errorf("restart of social, while work starts: %v", err)
		}
	})
}

func TestEmptyFileIsWaitedFor(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		empty := func() {
			if err := os.Truncate(filepath.Join(m.dir, "social.10.137.0.1"), 0); err != nil {
				t.Fatal(err)
			}
			m.Wake(Rules)
		}
		empty() // as `command >file` does long before the command writes
		m.expect(m.after(50*time.Millisecond), "")
		m.file("social.10.137.0.1", "a", "b")
		if got := m.after(time.Second); !strings.Contains(got, ": a b :2") || strings.Contains(got, "kill") {
			t.Errorf("written in place:\n%s", got)
		}
		empty() // and now it is meant
		m.expect(m.after(time.Second), `start social (10.137.0.1) at 10.138.1.1:  :3
			unbind vif1.0 10.137.0.1 :2
			bind vif1.0 10.137.0.1 :3
			kill :1
			kill :2`)
		m.file("social.10.137.0.1", "a")
		m.after(time.Second)
		empty()
		if _, err := m.Update(m.ctx); err != nil || !strings.Contains(m.took(), "kill :4") {
			t.Errorf("update waits for no writer: %v", err)
		}
	})
}

// TestOldTunnelOutlivesManyAdditions has more changes within a second than older processes may stay.
func TestOldTunnelOutlivesManyAdditions(t *testing.T) {
	run(t, func(m *machine) {
		lines := []string{"a"}
		m.file("social.10.137.0.1", lines...)
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		tunnel := m.proxy("social")
		for i := range 10 {
			lines = append(lines, fmt.Sprint("a", i))
			m.file("social.10.137.0.1", lines...)
			m.after(50 * time.Millisecond)
			m.set(func() {
				for _, p := range m.alive {
					p.idle = p != tunnel
				}
			})
		}
		m.after(time.Minute)
		if m.set(func() {}); m.alive[tunnel.port] != tunnel || len(m.alive) != 2 {
			t.Errorf("the tunnel's process should live, and only it beside the newest: %v", m.alive)
		}
	})
}
