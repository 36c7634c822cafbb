// Package switchboard hands connections to proxies without NAT and without connection tracking. A program in the kernel (sk_lookup) looks
// up which socket serves an AppVM, and gives the connection to that socket, whatever port it listens on. Package programs has the
// programs and loads them, package handover describes their maps; here is what the daemon does with these.
//
// A binding in the kernel leads from (vif, AppVM's address) to a socket by its number (cookie), which the kernel never gives twice. So
// a binding leads to the socket that the daemon has seen or to none, whatever becomes of its port. A binding moves with one write to
// a map. Connections that exist stay with their process.
//
// Concurrency: any goroutine may call the methods of a Board. A Backend is for one goroutine at once.
package switchboard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"vifproxy/firewall/switchboard/handover"
)

// A Board is what the daemon has of the kernel's switchboard.
type Board struct {
	maps *handover.Switchboard
	port uint16
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
	if err := update(kernel.Port, make([]byte, 4), number32(uint32(port))); err != nil {
		return nil, fmt.Errorf("switchboard: set the port: %w", err)
	}
	return &Board{kernel, port}, nil
}

// Close has the programs take no connection any more.
func (b *Board) Close() error { return update(b.maps.Port, make([]byte, 4), number32(0)) }

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

// bind makes connections from an AppVM go to a socket.
func (b *Board) bind(k key, socket uint64) error {
	return update(b.maps.Bindings, k[:], number64(socket))
}

// unbind takes a binding back. It is no error if there is none.
func (b *Board) unbind(k key) error {
	if err := remove(b.maps.Bindings, k[:]); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
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
