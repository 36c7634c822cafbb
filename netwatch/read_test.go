package netwatch

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/internal/netlink"
)

// answers is a kernel that answers each request with the next of some datagrams. It is the other end of a
// pair of sockets which, like netlink's, keep datagrams apart.
func answers(t *testing.T, datagrams ...[]byte) *netlink.Conn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	check(t, err)
	ours, kernel := os.NewFile(uintptr(pair[0]), "dumper"), os.NewFile(uintptr(pair[1]), "kernel")
	done := make(chan struct{})
	go func() {
		defer close(done)
		request := make([]byte, 1024)
		for _, datagram := range datagrams {
			if _, err := kernel.Read(request); err != nil {
				return
			}
			datagram = slices.Clone(datagram)
			for m := datagram; len(m) >= unix.SizeofNlMsghdr; m = m[min(int(binary.NativeEndian.Uint32(m)), len(m)):] {
				copy(m[8:12], request[8:12]) // the number of the request
			}
			if _, err := kernel.Write(datagram); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		ours.Close()
		kernel.Close()
		<-done
	})
	return &netlink.Conn{Socket: ours}
}

func interrupted(datagram []byte) []byte {
	d := slices.Clone(datagram)
	d[6] |= unix.NLM_F_DUMP_INTR
	return d
}

func result(kind uint16, errno unix.Errno) []byte {
	return event(kind, binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno))))
}

func end(errno unix.Errno) []byte { return result(unix.NLMSG_DONE, errno) }

func TestDump(t *testing.T) {
	eth0 := linkEvent(unix.RTM_NEWLINK, 0, 2, "eth0", true)
	vif := linkEvent(unix.RTM_NEWLINK, 0, 4, "vif2.0", true)
	broken := interrupted(slices.Concat(eth0, end(0)))
	tests := []struct {
		name    string
		answers [][]byte
		want    int
		err     error
	}{
		{"whole", [][]byte{slices.Concat(eth0, vif, end(0))}, 2, nil},
		{"empty", [][]byte{end(0)}, 0, nil},
		{"interrupted, then whole", [][]byte{broken, broken, slices.Concat(eth0, vif, end(0))}, 2, nil},
		{"interrupted at its end", [][]byte{interrupted(end(0)), slices.Concat(vif, end(0))}, 1, nil},
		{"always interrupted", slices.Repeat([][]byte{broken}, attemptsMax), 0, netlink.ErrInterrupted},
		{"refused", [][]byte{result(unix.NLMSG_ERROR, unix.EPERM)}, 0, unix.EPERM},
		{"fails at its end", [][]byte{slices.Concat(eth0, end(unix.ENOMEM))}, 0, unix.ENOMEM},
		{"end without result", [][]byte{event(unix.NLMSG_DONE)}, 0, netlink.ErrMalformed},
		{"of other kinds", [][]byte{slices.Concat(addrEvent(unix.RTM_NEWADDR, unix.AF_INET, 4),
			linkEvent(unix.RTM_NEWLINK, unix.AF_BRIDGE, 4, "vif2.0", true), vif, end(0))}, 1, nil},
		{"link without a name is a link", [][]byte{slices.Concat(
			event(unix.RTM_NEWLINK, make([]byte, unix.SizeofIfInfomsg)), end(0))}, 1, nil},
		{"malformed link", [][]byte{slices.Concat(
			event(unix.RTM_NEWLINK, make([]byte, 8)), end(0))}, 0, netlink.ErrMalformed},
		{"truncated", [][]byte{slices.Concat(eth0, vif)[:len(eth0)+20]}, 0, netlink.ErrMalformed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			links, err := allLinks(answers(t, test.answers...))
			if !errors.Is(err, test.err) || len(links) != test.want {
				t.Errorf("%d links, %v; want %d, %v", len(links), err, test.want, test.err)
			}
		})
	}
}
