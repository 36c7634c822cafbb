// Package switchboard hands connections to proxies without NAT and without connection tracking. A program in the kernel (sk_lookup) looks
// up which socket serves an AppVM, and gives the connection to that socket, whatever port it listens on. Package programs has the
// programs and loads them, package handover describes their maps; here is what the daemon does with these.
//
// A binding in the kernel leads from (vif, AppVM's address) to a socket by its number (cookie), which the kernel never gives twice. So
// a binding leads to the socket that the daemon has seen or to none, whatever becomes of its port. A binding moves with one write to
// a map. Connections that exist stay with their process.
//
// Nobody is told if another program changes the maps. So each write looks at them before, and Undone compares them with the last write.
//
// Concurrency: any goroutine may call the methods of a Board. A Backend is for one goroutine at once.
package switchboard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"vifproxy/firewall/switchboard/handover"
)

// A Board is what the daemon has of the kernel's switchboard.
type Board struct {
	maps *handover.Switchboard
	port uint16

	mu   sync.Mutex
	held map[key]uint64 // the bindings that were written
}

// Open returns a board without bindings, and says to the programs to which port AppVMs connect. Until then they take no connection.
// It removes what an earlier daemon may have left: systemd still has the maps of a daemon that was killed, and hands them over again if
// vifproxy-switchboard cannot run before the next one.
func Open(kernel *handover.Switchboard, port uint16) (*Board, error) {
	for _, m := range []*os.File{kernel.Bindings, kernel.Expected} {
		if err := clearMap(m); err != nil {
			return nil, fmt.Errorf("switchboard: remove what was left: %w", err)
		}
	}
	b := &Board{maps: kernel, port: port, held: make(map[key]uint64)}
	if err := b.setPort(port); err != nil {
		return nil, err
	}
	return b, nil
}

// setPort has the programs take connections to a port; 0 for none.
func (b *Board) setPort(port uint16) error {
	if err := update(b.maps.Port, make([]byte, 4), number32(uint32(port))); err != nil {
		return fmt.Errorf("switchboard: set the port: %w", err)
	}
	return nil
}

// Close has the programs take no connection any more.
func (b *Board) Close() error { return b.setPort(0) }

// Port returns the port to which all AppVMs connect.
func (b *Board) Port() uint16 { return b.port }

// Expect says that a proxy is about to listen at an address. The first socket of the proxies' cgroup that listens there can be bound,
// and no other. Until Discard nobody but the daemon, from 127.0.0.0/8, reaches that address directly.
func (b *Board) Expect(at netip.AddrPort) error {
	if err := update(b.maps.Expected, place(at), number32(handover.AboutToListen)); err != nil {
		return fmt.Errorf("switchboard: expect %s: %w", at, err)
	}
	return nil
}

// Discard takes back an Expect.
func (b *Board) Discard(at netip.AddrPort) { _ = remove(b.maps.Expected, place(at)) }

// Listens reports whether the socket of this number listens as expected.
func (b *Board) Listens(socket uint64) bool {
	return lookUp(b.maps.Sockets, number64(socket), make([]byte, 8)) == nil
}

// Undone reports whether another program has changed what was written, or has taken away a socket to which a binding leads. While
// something is being written, or a proxy has just ended, it may say so too.
func (b *Board) Undone() bool {
	held := b.written()
	for _, socket := range held {
		if !b.Listens(socket) {
			return true
		}
	}
	return b.changed(held)
}

// written returns the bindings that were written.
func (b *Board) written() map[key]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.held)
}

// changed reports whether the kernel has other bindings than these, or takes connections to another port.
func (b *Board) changed(held map[key]uint64) bool {
	port, err := b.heardPort()
	is, failed := b.bound()
	return errors.Join(err, failed) == nil && (port != b.port || !maps.Equal(held, is))
}

// heardPort returns to which port connections are taken.
func (b *Board) heardPort() (uint16, error) {
	value := make([]byte, 4)
	err := lookUp(b.maps.Port, make([]byte, 4), value)
	return uint16(binary.NativeEndian.Uint32(value)), err
}

// bound returns all bindings in the kernel.
func (b *Board) bound() (map[key]uint64, error) {
	b.mu.Lock()
	most := len(b.held) + 32
	b.mu.Unlock()
	for {
		keys, sockets := make([]key, most), make([]uint64, most)
		n, whole, err := lookUpAll(b.maps.Bindings, unsafe.Pointer(&keys[0]), unsafe.Pointer(&sockets[0]), most)
		if err != nil {
			return nil, fmt.Errorf("switchboard: read the bindings: %w", err)
		}
		if !whole && most < 2*int(handover.Bindings.MaxEntries) {
			most *= 2
			continue
		}
		all := make(map[key]uint64, n)
		for i, k := range keys[:n] {
			all[k] = sockets[i]
		}
		return all, nil
	}
}

// bind makes connections from an AppVM go to a socket.
func (b *Board) bind(k key, socket uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := update(b.maps.Bindings, k[:], number64(socket)); err != nil {
		return explained(err)
	}
	b.held[k] = socket
	return nil
}

// unbind takes a binding back. It is no error if there is none.
func (b *Board) unbind(k key) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := remove(b.maps.Bindings, k[:]); err != nil && !errors.Is(err, unix.ENOENT) {
		return explained(err)
	}
	delete(b.held, k)
	return nil
}

// explained adds what to do about an error of a write.
func explained(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("another program has frozen the map: restart vifproxyd, which makes another one: %w", err)
	}
	return err
}

// A key of the map of bindings.
type key [8]byte

func keyOf(link int32, addr netip.Addr) (k key) {
	binary.NativeEndian.PutUint32(k[:], uint32(link))
	copy(k[4:], addr.AsSlice())
	return k
}

// place is a key of the map of expected sockets.
func place(at netip.AddrPort) []byte {
	return binary.NativeEndian.AppendUint32(at.Addr().AsSlice(), uint32(at.Port()))
}

func number32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
func number64(n uint64) []byte { return binary.NativeEndian.AppendUint64(nil, n) }

// The daemon makes these calls itself: the library that loads the programs (github.com/cilium/ebpf) brings an assembler, a linker and a
// reader of ELF and BTF.

func update(m *os.File, key, value []byte) error {
	return call(unix.BPF_MAP_UPDATE_ELEM, m, key, value)
}
func lookUp(m *os.File, key, value []byte) error {
	return call(unix.BPF_MAP_LOOKUP_ELEM, m, key, value)
}
func remove(m *os.File, key []byte) error { return call(unix.BPF_MAP_DELETE_ELEM, m, key, nil) }

// lookUpAll reads a map of which it has room for some elements, in one call (BPF_MAP_LOOKUP_BATCH, Linux 5.6). It returns how many there
// are, and whether these are all.
func lookUpAll(m *os.File, keys, values unsafe.Pointer, room int) (n int, whole bool, err error) {
	var next uint32
	attr := struct {
		in, out, keys, values unsafe.Pointer
		count, fd             uint32
		_, _                  uint64
	}{out: unsafe.Pointer(&next), keys: keys, values: values, count: uint32(room), fd: uint32(m.Fd())}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_LOOKUP_BATCH, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(m)
	switch errno {
	case 0, unix.ENOSPC: // there may be more
		return int(attr.count), false, nil
	case unix.ENOENT:
		return int(attr.count), true, nil
	}
	return 0, false, errno
}

// clearMap removes all elements of a map with keys of 8 bytes.
func clearMap(m *os.File) error {
	first := make([]byte, 8)
	for {
		switch err := call(unix.BPF_MAP_GET_NEXT_KEY, m, nil, first); { // without a key, the first one is next
		case errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return err
		}
		if err := remove(m, first); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
}

// call is bpf(2) for an element of a map. The union is as include/uapi/linux/bpf.h has it for BPF_MAP_*_ELEM. The value of
// BPF_MAP_GET_NEXT_KEY is the next key.
func call(command uintptr, m *os.File, key, value []byte) error {
	attr := struct {
		fd    uint32
		_     uint32
		key   unsafe.Pointer
		value unsafe.Pointer
		flags uint64
	}{fd: uint32(m.Fd()), key: unsafe.Pointer(unsafe.SliceData(key)), value: unsafe.Pointer(unsafe.SliceData(value))}
	_, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(m)
	if errno != 0 {
		return errno
	}
	return nil
}
