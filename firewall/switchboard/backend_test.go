package switchboard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/switchboard/handover"
)

// A world is real maps, and a packet filter that says what the board holds when it is written.
type world struct {
	firewall.Pinner
	*testing.T
	bindings *ebpf.Map
	kernel   *handover.Switchboard
	fails    error
	detached error
	did      []string
}

func newWorld(t *testing.T) (*world, *Backend) {
	t.Helper()
	w := &world{T: t, kernel: new(handover.Switchboard)}
	for _, m := range []struct {
		like handover.Map
		to   **os.File
	}{
		{handover.Bindings, &w.kernel.Bindings}, {handover.Sockets, &w.kernel.Sockets},
		{handover.Expected, &w.kernel.Expected}, {handover.Port, &w.kernel.Port},
	} {
		made, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.MapType(m.like.Type), KeySize: m.like.KeySize, ValueSize: m.like.ValueSize,
			MaxEntries: m.like.MaxEntries, Flags: m.like.Flags})
		Must(t, err)
		t.Cleanup(func() { made.Close() })
		fd, err := unix.FcntlInt(uintptr(made.FD()), unix.F_DUPFD_CLOEXEC, 0)
		Must(t, err)
		*m.to = os.NewFile(uintptr(fd), m.like.Name)
		if m.to == &w.kernel.Bindings {
			w.bindings = made
		}
	}
	t.Cleanup(func() { w.kernel.Close() })
	board, err := Open(w.kernel, 8100)
	Must(t, err)
	return w, w.over(board)
}

// over returns a backend over a board. Its maps belong to programs that are not attached; detached says so.
func (w *world) over(board *Board) *Backend {
	b := New(w, board, TestConfig, slog.New(slog.DiscardHandler))
	b.attached = func() error { return w.detached }
	return b
}

// holds returns what the board holds, as "link address>socket".
func (w *world) holds() string {
	w.Helper()
	var all []string
	var k [8]byte
	var socket uint64
	for each := w.bindings.Iterate(); each.Next(&k, &socket); {
		all = append(all, fmt.Sprintf("%d %d.%d.%d.%d>%d", binary.NativeEndian.Uint32(k[:]), k[4], k[5], k[6], k[7], socket))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// Sync plays the packet filter.
func (w *world) Sync(_ context.Context, want firewall.State, inForce func()) (int, error) {
	w.did = append(w.did, fmt.Sprintf("%d at %d beside [%s]", len(want.Bindings), want.Shared, w.holds()))
	if w.fails == nil {
		inForce()
	}
	return 1, w.fails
}

func (w *world) String() string                                     { return "nftables" }
func (w *world) Refused(context.Context) (map[uint32]uint64, error) { return nil, nil }
func (w *world) Remove(context.Context) error                       { w.did = append(w.did, "remove"); return nil }

// write has the backend hold a state, and returns what the packet filter saw.
func (w *world) write(b *Backend, all ...firewall.Binding) string {
	w.Helper()
	w.did = nil
	inForce := false
	_, err := b.Sync(w.Context(), firewall.State{Bindings: all}, func() { inForce = true })
	if !errors.Is(err, w.fails) || inForce != (w.fails == nil) {
		w.Errorf("%v, in force %v", err, inForce)
	}
	return strings.Join(w.did, "; ")
}

func binding(link int32, addr string, socket uint64) firewall.Binding {
	b := BindingOf(fmt.Sprintf("vif%d.0", link), addr, "10.138.0.1:61000")
	b.Link, b.Socket = link, socket
	return b
}

// An AppVM that comes is on the board before the filter lets it in, and one that goes stays there until the filter shuts it out.
func TestBoardAndFilter(t *testing.T) {
	w, b := newWorld(t)
	one, two := binding(7, "10.137.0.11", 101), binding(8, "10.137.0.12", 102)
	local := BindingOf("lo", "127.1.2.1", "10.138.0.1:61005")
	if got, want := w.write(b, one, local), "2 at 8100 beside [7 10.137.0.11>101]"; got != want {
		t.Errorf("the first comes: %s, want %s", got, want)
	}
	if got, want := w.write(b, one, two), "2 at 8100 beside [7 10.137.0.11>101, 8 10.137.0.12>102]"; got != want {
		t.Errorf("the second comes: %s, want %s", got, want)
	}
	one.Socket = 103
	if got, want := w.write(b, one), "1 at 8100 beside [7 10.137.0.11>103, 8 10.137.0.12>102]"; got != want {
		t.Errorf("one moves, the other goes: %s, want %s", got, want)
	}
	if got, want := w.holds(), "7 10.137.0.11>103"; got != want {
		t.Errorf("afterwards the board has %s, want %s", got, want)
	}
	one.Link, one.Vif = 9, "vif9.0" // it restarts: its vif is another
	w.write(b, one)
	if got, want := w.holds(), "9 10.137.0.11>103"; got != want {
		t.Errorf("after a restart the board has %s, want %s", got, want)
	}
	Must(t, b.Remove(t.Context()))
	if got := w.holds(); got != "" || !slices.Equal(w.did[1:], []string{"remove"}) {
		t.Errorf("after the end: %s, %q", got, w.did)
	}
}

// As long as the filter may still let an AppVM in, it finds its own binding.
func TestBoardKeepsWhatTheFilterMayLetIn(t *testing.T) {
	w, b := newWorld(t)
	one, two := binding(7, "10.137.0.11", 101), binding(8, "10.137.0.12", 102)
	w.write(b, one, two)
	w.fails = errors.New("busy")
	w.write(b, one)
	if got, want := w.holds(), "7 10.137.0.11>101, 8 10.137.0.12>102"; got != want {
		t.Errorf("the board has %s, want %s", got, want)
	}
	w.fails = nil
	w.write(b, one)
	if got, want := w.holds(), "7 10.137.0.11>101"; got != want {
		t.Errorf("the board has %s, want %s", got, want)
	}
}

// A binding that only leads to another socket is in force before the filter is asked for anything; every other change waits for the
// filter.
func TestAMoveWaitsForNoFilter(t *testing.T) {
	one, two := binding(7, "10.137.0.11", 101), binding(8, "10.137.0.12", 102)
	local := BindingOf("lo", "127.1.2.1", "10.138.0.1:61005")
	for name, test := range map[string]struct {
		change func(all []firewall.Binding)
		early  bool
	}{
		"another socket":          {func(all []firewall.Binding) { all[1].Socket = 103 }, true},
		"another socket and port": {func(all []firewall.Binding) { all[1].Socket, all[1].To = 103, local.To }, true},
		"nothing":                 {func([]firewall.Binding) {}, false},
		"another vif":             {func(all []firewall.Binding) { all[1].Socket, all[1].Vif, all[1].Link = 103, "vif9.0", 9 }, false},
		"and a local one": {func(all []firewall.Binding) {
			all[1].Socket, all[2].To = 103, BindingOf("lo", "127.1.2.1", "10.138.0.1:61006").To
		}, false},
		"and another goes": {func(all []firewall.Binding) { all[1].Socket, all[0] = 103, binding(9, "10.137.0.13", 101) }, false},
		"an impossible target": {func(all []firewall.Binding) {
			all[1].Socket, all[1].To = 103, BindingOf("lo", "127.1.2.1", "10.138.0.1:80").To
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, b := newWorld(t)
			all := []firewall.Binding{one, two, local}
			w.write(b, all...)
			test.change(all)
			w.did = nil
			early := false
			_, err := b.Sync(t.Context(), firewall.State{Bindings: all}, func() { early = len(w.did) == 0 })
			if early != test.early || err != nil || len(w.did) != 1 {
				t.Errorf("in force before the filter: %t; %v, %q", early, err, w.did)
			}
			if got, want := w.holds(), "7 10.137.0.11>101, 8 10.137.0.12>103"; test.early && got != want {
				t.Errorf("the board has %s, want %s", got, want)
			}

			w.fails = errors.New("busy")
			all[1].Socket = 104
			_, _ = b.Sync(t.Context(), firewall.State{Bindings: all}, func() {})
			w.fails, w.did = nil, nil
			all[1].Socket = 105
			if _, err := b.Sync(t.Context(), firewall.State{Bindings: all}, func() { early = len(w.did) == 0 }); early || err != nil {
				t.Errorf("after a failure: in force before the filter: %t; %v", early, err)
			}
		})
	}
}

// Whatever another program has done to the maps, the next write mends it, and the board tells until then.
func TestMapsThatAnotherProgramHasChanged(t *testing.T) {
	one, two := binding(7, "10.137.0.11", 101), binding(8, "10.137.0.12", 102)
	other := keyOf(9, one.Addr)
	for name, change := range map[string]func(*Board) error{
		"a binding is away":           func(b *Board) error { return remove(b.maps.Bindings, keyed(one)) },
		"a binding leads elsewhere":   func(b *Board) error { return update(b.maps.Bindings, keyed(two), number64(101)) },
		"a binding more":              func(b *Board) error { return update(b.maps.Bindings, other[:], number64(102)) },
		"all are away":                func(b *Board) error { return clearMap(b.maps.Bindings) },
		"no connections are taken":    func(b *Board) error { return b.setPort(0) },
		"those to another port are":   func(b *Board) error { return b.setPort(22) },
		"there are thousands of them": fill,
	} {
		t.Run(name, func(t *testing.T) {
			w, b := newWorld(t)
			w.write(b, one, two)
			before := w.holds()
			changed := func() bool { return b.board.changed(b.board.written()) }
			if changed() {
				t.Error("something is said to have changed")
			}
			Must(t, change(b.board))
			if !changed() {
				t.Error("nothing is said to have changed")
			}
			w.write(b, one, two)
			if got := w.holds(); got != before || changed() {
				t.Errorf("the board has %.200s, want %s", got, before)
			}
		})
	}
}

func keyed(b firewall.Binding) []byte {
	k := keyOf(b.Link, b.Addr)
	return k[:]
}

func fill(b *Board) error {
	for i := range int32(handover.Bindings.MaxEntries) {
		k := keyOf(1000+i, one61000.Addr())
		if err := update(b.maps.Bindings, k[:], number64(1)); err != nil {
			if errors.Is(err, unix.E2BIG) {
				return nil
			}
			return err
		}
	}
	return errors.New("it is never full")
}

// An impossible state changes nothing on the board.
func TestImpossibleState(t *testing.T) {
	w, b := newWorld(t)
	one := binding(7, "10.137.0.11", 101)
	w.write(b, one)
	_, err := b.Sync(t.Context(), firewall.State{Bindings: []firewall.Binding{one, one}}, func() {})
	if err != nil || w.holds() != "7 10.137.0.11>101" { // the filter has the say, here a double
		t.Errorf("%v, %s", err, w.holds())
	}
}

func TestExpected(t *testing.T) {
	w, b := newWorld(t)
	at := one61000
	Must(t, b.board.Expect(at))
	var value [4]byte
	Must(t, lookUp(w.kernel.Expected, place(at), value[:]))
	if got := binary.NativeEndian.Uint32(value[:]); got != handover.AboutToListen {
		t.Errorf("noted as %d", got)
	}
	b.board.Discard(at)
	b.board.Discard(at)
	if err := lookUp(w.kernel.Expected, place(at), value[:]); !errors.Is(err, unix.ENOENT) {
		t.Errorf("still there: %v", err)
	}
	if b.board.Listens(42) {
		t.Error("a socket that does not exist listens")
	}
	Must(t, b.board.Close())
	Must(t, lookUp(w.kernel.Port, make([]byte, 4), value[:]))
	if value != [4]byte{} {
		t.Errorf("connections are still taken: %v", value)
	}
}

// A daemon that was killed leaves its maps with systemd, and the next one may get them.
func TestNothingIsBelievedOfAnEarlierDaemon(t *testing.T) {
	w, b := newWorld(t)
	w.write(b, binding(7, "10.137.0.11", 101), binding(8, "10.137.0.12", 102))
	Must(t, b.board.Expect(one61000))
	board, err := Open(w.kernel, 8100)
	Must(t, err)
	if got := w.holds(); got != "" {
		t.Errorf("bindings are left: %s", got)
	}
	if err := lookUp(w.kernel.Expected, place(one61000), make([]byte, 4)); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a proxy is expected: %v", err)
	}
	if got, want := w.write(w.over(board), binding(9, "10.137.0.13", 103)),
		"1 at 8100 beside [9 10.137.0.13>103]"; got != want {
		t.Errorf("the next one: %s, want %s", got, want)
	}
}

// Where somebody has detached the programs, everything is in force and AppVMs are shut out.
func TestDetached(t *testing.T) {
	w, b := newWorld(t)
	w.detached = errors.New("detached")
	inForce := false
	_, err := b.Sync(t.Context(), firewall.State{Bindings: []firewall.Binding{binding(7, "10.137.0.11", 101)}}, func() { inForce = true })
	if !errors.Is(err, firewall.ErrShut) || !errors.Is(err, w.detached) || !inForce {
		t.Errorf("%v, in force %v", err, inForce)
	}
	if got, want := w.holds(), "7 10.137.0.11>101"; got != want {
		t.Errorf("the board has %s, want %s", got, want)
	}
}

// Where somebody has frozen the map of bindings, and an AppVM leaves, the filter shuts it out, and the others keep their proxies. One
// that comes cannot be bound.
func TestFrozen(t *testing.T) {
	w, b := newWorld(t)
	one, two, three := binding(7, "10.137.0.11", 101), binding(8, "10.137.0.12", 102), binding(9, "10.137.0.13", 103)
	w.write(b, one, two)
	Must(t, w.bindings.Freeze())
	for range 2 { // the second is a check
		w.did = nil
		inForce := false
		_, err := b.Sync(t.Context(), firewall.State{Bindings: []firewall.Binding{one}}, func() { inForce = true })
		if !errors.Is(err, firewall.ErrShut) || !strings.Contains(err.Error(), "has frozen the map: restart vifproxyd") || !inForce {
			t.Errorf("%v, in force %v", err, inForce)
		}
		if got, want := strings.Join(w.did, "; "), "1 at 8100 beside [7 10.137.0.11>101, 8 10.137.0.12>102]"; got != want {
			t.Errorf("the filter: %s, want %s", got, want)
		}
	}
	w.fails = errors.New("not written")
	if _, err := b.Sync(t.Context(), firewall.State{Bindings: []firewall.Binding{one}}, func() {}); !errors.Is(err, w.fails) || errors.Is(err, firewall.ErrShut) {
		t.Errorf("%v where the filter was not written", err)
	}
	w.fails = nil
	if _, err := b.Sync(t.Context(), firewall.State{Bindings: []firewall.Binding{one, three}}, func() {}); err == nil || errors.Is(err, firewall.ErrShut) ||
		!strings.Contains(err.Error(), "has frozen the map") {
		t.Errorf("%v for one that comes", err)
	}
}

var one61000 = BindingOf("vif7.0", "10.137.0.11", "10.138.0.1:61000").To
