package proxies

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vifproxy/internal/policy"
	"vifproxy/internal/policy/policytest"
	"vifproxy/names/wire"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/limits"
	proc "vifproxy/tinyproxy/process"
)

// openGates notes which gates are open.
type openGates struct {
	mu   sync.Mutex
	last int64
	open map[int64]wire.Gate
	err  error
}

func (o *openGates) Open(_ context.Context, g wire.Gate) (int64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	o.last++
	o.open[o.last] = g
	return o.last, nil
}

func (o *openGates) Close(id int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.open, id)
}

func (o *openGates) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := ""
	for id, g := range o.open {
		text += fmt.Sprintf("%d of %d: %v; ", id, g.UID, g.Lines)
	}
	return text
}

// A process has its gate from before it starts until it has ended, and a start that fails has none.
func TestGates(t *testing.T) {
	dir, err := os.MkdirTemp("/run", "vifproxy-gates-") // proxies must be able to pass it
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	launcher, err := proc.NewLauncher(proc.Options{RuntimeDir: filepath.Join(dir, "run"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer launcher.Close()
	users := new(tinyproxy.Identities)
	proxies := &Tinyproxies{binary: policytest.RealBinary, launcher: launcher, users: users, slots: make(chan struct{}, 1),
		gates: gates{open: map[int64]*policy.Policy{}}}
	names := &openGates{open: map[int64]wire.Gate{}}
	proxies.AskNames(names)
	of := func(lines ...string) *policy.Policy {
		return policytest.Of(t, netip.MustParseAddr("127.0.0.1"), lines, "FilterDefaultDeny Yes")
	}
	p := of("^a$")
	uid := users.UID(p.Addr)
	one, err := proxies.Start(t.Context(), p, 61807)
	if err != nil {
		t.Fatal(err)
	}
	first := fmt.Sprintf("1 of %d: [^a$]; ", uid)
	if got := names.String(); got != first {
		t.Errorf("while it serves: %s", got)
	}
	if permits, err := proxies.Permits(t.Context(), 1, "a"); !permits || err != nil {
		t.Errorf("its list permits a: %v, %v", permits, err)
	}
	if _, err := proxies.Start(t.Context(), p, 61807); err == nil {
		t.Error("two listen at one port")
	}
	if got := names.String(); got != first {
		t.Errorf("after a start that failed: %s", got)
	}
	trial, err := proxies.Try(t.Context(), of("^b$"), uid+1, 61808, tinyproxy.Request{Tunnel: true, Host: "b", Port: 443})
	if err != nil {
		t.Fatal(err)
	}
	if got := names.String(); len(got) != len(first)*2 {
		t.Errorf("during a trial: %s", got)
	}
	trial.Kill()
	if got := names.String(); got != first {
		t.Errorf("after the trial: %s", got)
	}
	one.Kill()
	for end := time.Now().Add(10 * time.Second); names.String() != "" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := names.String(); got != "" {
		t.Errorf("after its end: %s", got)
	}
	if _, err := proxies.Permits(t.Context(), 1, "a"); !errors.Is(err, errNoGate) {
		t.Errorf("after its end: %v", err)
	}
	names.err = errors.New("the resolver does not run")
	if _, err := proxies.Start(t.Context(), p, 61809); !errors.Is(err, names.err) {
		t.Errorf("without a resolver: %v", err)
	}
}

// A list for which the resolver has no room is refused as one that tinyproxy refuses. A closed gate counts until the resolver has forgotten
// it, which remembers the last two of an AppVM.
func TestListsThatFindNoRoom(t *testing.T) {
	names := &openGates{open: map[int64]wire.Gate{}}
	p := policytest.Of(t, netip.MustParseAddr("127.0.0.1"), []string{"^a$", "^b$"}, "FilterDefaultDeny Yes")
	size := limits.SizeOf(p.Gate(nil).Lines)
	g := gates{names: names, open: map[int64]*policy.Policy{}, lists: &limits.Shelf{Room: 8 * size.Names()}}
	var shut func()
	for i := range 8 {
		then, err := g.of(t.Context(), p, 1)
		if err != nil {
			t.Fatalf("list %d of one AppVM: %v", i, err)
		}
		if shut != nil {
			shut()
		}
		shut = then
	}
	names.err = errors.New("no resolver")
	for range 8 {
		if _, err := g.of(t.Context(), p, 1); err == nil || IsBad(err) {
			t.Errorf("without a resolver: %v", err)
		}
	}
	names.err = nil
	var err error
	others := 0
	for ; err == nil; others++ {
		_, err = g.of(t.Context(), p, 2)
	}
	if want := "a list of 2 lines: the resolver has room for 0 such lines: "; others != 4 || !IsBad(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("list %d of another AppVM: %v, want 4: %s", others, err, want)
	}
	if len(names.open) != 4 {
		t.Errorf("open are %v", names)
	}
}
