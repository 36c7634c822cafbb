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
	"vifproxy/internal/events"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
	"vifproxy/internal/sockdiag"
	"vifproxy/internal/stops"
	"vifproxy/netwatch"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

var (
	gateway = netip.MustParseAddr("10.138.1.1")
	limits  = plan.Limits{Drain: time.Hour, Generations: 16, Full: 2}
)

// machine is a firewall VM of values: what the loop reads, and what it does, in order, as text.
type machine struct {
	firewall.Pinner
	t *testing.T
	*Supervisor
	ctx context.Context

	mu         sync.Mutex
	links      netwatch.Snapshot
	looks      int // at one AppVM's links
	reads      int // of all
	linksErr   error
	dir        string
	rulesErr   error
	bindings   []firewall.Binding
	guarded    []uint16
	fwErr      error
	forgotten  []uint16      // ports of proxies whose connections are
	looking    time.Duration // that a write takes until it is in force
	undone     func() bool   // somebody has undone what the firewall held
	removing   time.Duration // that it takes to remove everything
	rest       time.Duration // that a write takes on when it is in force
	restErr    error
	yields     bool // the rest can be put off
	fence      string
	forward    firewall.Forward
	forwardErr error
	refused    map[uint32]uint64
	counted    int // how often they were asked for
	putOff     int // writes that were not done when they were to end
	resolvers  []netip.Addr
	places     string
	resolvErr  error
	asleep     time.Duration // how long it was suspended, all in all
	stops      stops.Record  // as kept
	stopsErr   error         // of reading and writing them
	stopsWait  chan struct{} // writing them waits until it is closed; nil: it does not
	hosts      map[string]netip.Addr
	attempts   []firewall.Attempt
	syncs      int
	busy       bool // a Sync is under way
	alive      map[uint16]*fakeProxy
	journal    []string
	notified   []string
	startErr   func(*policy.Policy) error
	showErr    error
	showTakes  time.Duration
	shown      uint16        // the port of the proxy that the files tell of
	delay      time.Duration // until a proxy listens
	ends       error         // why the loop is to end before it is told to
	stubborn   bool          // a proxy comes up although it was abandoned
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
	for i := range lines {
		for j := i; j > 0 && sideBySide(lines[j-1], lines[j]); j-- {
			lines[j], lines[j-1] = lines[j-1], lines[j]
		}
	}
	return strings.Join(lines, "\n")
}

// sideBySide tells whether the order of two lines means nothing and is to be turned: ends are in that of their ports, and
// starts before what the firewall is made to hold meanwhile, but for bindings.
func sideBySide(first, second string) bool {
	if strings.HasPrefix(first, "fence ") || strings.HasPrefix(first, "unbind ") {
		return strings.HasPrefix(second, "start ")
	}
	return isEnd(first) && isEnd(second) && second < first
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

func (m *machine) Sync(ctx context.Context, state firewall.State, inForce func()) (int, error) {
	m.mu.Lock()
	looking := m.looking
	m.busy = true
	m.mu.Unlock()
	defer m.set(func() { m.busy = false })
	select {
	case <-time.After(looking):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	writes, err := m.write(state)
	if err != nil {
		return writes, err
	}
	inForce()
	m.mu.Lock()
	rest, restErr := m.rest, m.restErr
	if !m.yields {
		ctx = context.WithoutCancel(ctx)
	}
	m.mu.Unlock()
	select {
	case <-time.After(rest):
		return writes, restErr
	case <-ctx.Done():
		m.set(func() { m.putOff++ })
		return writes, ctx.Err()
	}
}

func (m *machine) write(state firewall.State) (int, error) {
	want := state.Bindings
	m.mu.Lock()
	defer m.mu.Unlock()
	m.syncs++
	if m.fwErr != nil {
		return 0, m.fwErr
	}
	m.guarded = state.Guarded
	for _, b := range want {
		if p := m.alive[b.To.Port()]; p == nil || p.policy.Addr != b.Addr {
			m.t.Errorf("%v is bound to a port where no proxy of its own listens", b)
		}
	}
	places := map[string]bool{} // as the real ones refuse what is there twice
	for _, b := range want {
		places[fmt.Sprint(b.Vif, b.Addr)] = true
	}
	for _, p := range state.Fence.Proxies {
		places[fmt.Sprint(p.UID)] = true
	}
	if len(places) != len(want)+len(state.Fence.Proxies) {
		m.t.Errorf("something is there twice: %v", state)
	}
	writes := 0
	if m.undone != nil && m.undone() {
		writes++
	}
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
	m.counted++
	if m.busy {
		m.t.Error("the backend is called concurrently")
	}
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
	for _, h := range f.Openings {
		parts = append(parts, fmt.Sprintf("all %s:%d", h.To, h.Port))
	}
	for _, name := range f.Leave {
		parts = append(parts, "leave "+name)
	}
	for _, name := range f.Barred {
		parts = append(parts, "barred "+name)
	}
	for _, p := range f.Proxies {
		for _, h := range p.Openings {
			parts = append(parts, fmt.Sprintf("%x %s:%d", p.UID, h.To, h.Port))
		}
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), ", ")
}

func (m *machine) Remove(ctx context.Context) error {
	m.mu.Lock()
	removing := m.removing
	m.did("firewall removed")
	m.mu.Unlock()
	select {
	case <-time.After(removing):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run runs f with a supervisor around it, in a bubble whose clock moves only when everybody waits.
func run(t *testing.T, f func(m *machine)) { runAfter(t, func(*machine) {}, f) }

// runAfter is run on a machine that is not new.
func runAfter(t *testing.T, before, f func(m *machine)) {
	t.Helper()
	dir := t.TempDir()
	reader := rules.NewReader(dir, filepath.Join(dir, "config"))
	synctest.Test(t, func(t *testing.T) {
		m := &machine{t: t, dir: dir, alive: map[uint16]*fakeProxy{}, delay: 3 * time.Millisecond}
		ctx, cancel := context.WithCancel(t.Context())
		m.ctx = ctx
		began := time.Now()
		m.Supervisor = New(Config{
			Read: Inputs{
				Links: func() (netwatch.Snapshot, error) {
					m.mu.Lock()
					defer m.mu.Unlock()
					m.reads++
					return m.links, m.linksErr
				},
				LinksAt: func(h netwatch.Hint) (netwatch.Snapshot, error) {
					m.mu.Lock()
					defer m.mu.Unlock()
					m.looks++
					if vm, ok := m.links.Find(h.Host); ok {
						return netwatch.Snapshot{vm}, m.linksErr
					}
					return nil, m.linksErr
				},
				Rules: func() (rules.Set, error) {
					m.mu.Lock()
					defer m.mu.Unlock()
					if m.rulesErr != nil {
						return rules.Set{}, m.rulesErr
					}
					return reader.Read()
				},
				RulesChanged: func(of ...netip.Addr) bool {
					m.mu.Lock()
					defer m.mu.Unlock()
					return reader.Changed(of...)
				},
				Binary: func() (tinyproxy.Binary, error) { return tinyproxy.Binary{}, nil },
				Places: func(...string) map[string]string {
					m.mu.Lock()
					defer m.mu.Unlock()
					return map[string]string{"": m.places}
				},
				Resolvers: func() ([]netip.Addr, error) {
					m.mu.Lock()
					defer m.mu.Unlock()
					return m.resolvers, m.resolvErr
				},
				Forward: func(context.Context) (firewall.Forward, error) {
					m.mu.Lock()
					defer m.mu.Unlock()
					return m.forward, m.forwardErr
				},
				Listeners: func() (sockdiag.Listeners, error) { return nil, nil },
				Stops: func() (stops.Record, error) {
					m.mu.Lock()
					defer m.mu.Unlock()
					return m.stops, m.stopsErr
				},
			},
			Names: Names{
				Asker: func(uid uint32) netip.AddrPort {
					return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 64, byte(uid >> 8), byte(uid)}), 5353)
				},
				InForce: func() {},
				WhyNone: func(uint32, string) string { return "" },
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
			},
			Connections: Connections{
				Attempts: func(uint32, uint16) ([]firewall.Attempt, error) {
					m.mu.Lock()
					defer m.mu.Unlock()
					return m.attempts, nil
				},
				Forget: func(to netip.AddrPort, from []netip.AddrPort) error {
					m.mu.Lock()
					defer m.mu.Unlock()
					if len(from) > 0 {
						m.forgotten = append(m.forgotten, to.Port())
					}
					return nil
				},
				ForgetAll: func([]firewall.Binding) (int, error) { return 0, nil },
			},
			Clock: Clock{
				Now: func() time.Duration {
					m.mu.Lock()
					defer m.mu.Unlock()
					return time.Since(began) + m.asleep
				},
				WakeAt: func(time.Duration) {},
			},
			Systemd: Systemd{
				Notify: func(state string) {
					m.mu.Lock()
					defer m.mu.Unlock()
					if state != "WATCHDOG=1" {
						m.notified = append(m.notified, state)
					}
				},
			},
			WriteStops: func(s stops.Record) error {
				m.mu.Lock()
				wait := m.stopsWait
				m.mu.Unlock()
				if wait != nil {
					<-wait
				}
				m.mu.Lock()
				defer m.mu.Unlock()
				if m.stopsErr == nil {
					m.stops = s
				}
				return m.stopsErr
			},
			Firewall:  m,
			Proxies:   m,
			Users:     new(tinyproxy.Identities),
			Ports:     proxies.PortRange{First: 1, Last: 100},
			Limits:    limits,
			Heartbeat: 30 * time.Second,
			Resync:    30 * time.Second,
			Rest:      func() {},
			Events:    events.New(slog.New(slog.DiscardHandler)),
		})
		before(m)
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		synctest.Wait()
		f(m)
		cancel()
		if err := <-ended; !errors.Is(err, m.ends) {
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
	m.Wake(mailbox.Rules)
}

func (m *machine) remove(name string) {
	m.t.Helper()
	if err := os.Remove(filepath.Join(m.dir, name)); err != nil {
		m.t.Fatal(err)
	}
	m.Wake(mailbox.Rules)
}

// connect makes the connected AppVMs those given as "vif1.0 10.137.0.1".
func (m *machine) connect(vifs ...string) {
	m.link(vifs...)
	m.Wake(mailbox.Links)
}

// link is connect without a word to the loop.
func (m *machine) link(vifs ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.links = nil
	for _, v := range vifs {
		vif, addr, _ := strings.Cut(v, " ")
		ip := netip.MustParseAddr(addr)
		if i := slices.IndexFunc(m.links, func(vm netwatch.AppVM) bool { return vm.Addr == ip }); i >= 0 {
			m.links[i].Vifs, m.links[i].Links = append(m.links[i].Vifs, vif), append(m.links[i].Links, linkOf(vif))
			continue
		}
		m.links = append(m.links, netwatch.AppVM{Addr: ip, Gateway: gateway, Vifs: []string{vif}, Links: []int32{linkOf(vif)}})
	}
	slices.SortFunc(m.links, func(a, b netwatch.AppVM) int { return a.Addr.Compare(b.Addr) })
}

// linkOf returns the index of a vif.
func linkOf(vif string) int32 {
	domid, devid, _ := netwatch.ParseVif(vif)
	return int32(10*domid + devid + 2)
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
