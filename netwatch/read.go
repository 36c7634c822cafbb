package netwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bufferSize holds any datagram: in a dump the kernel fills at most 32 KiB (netlink_dump in
// net/netlink/af_netlink.c), and an event is one message.
const bufferSize = 64 << 10

// answerTime is how long a dump may take. The kernel answers at once or not at all.
const answerTime = 10 * time.Second

// maxAttempts is how often one table is read when changes keep interrupting the reading.
const maxAttempts = 10

var errInterrupted = errors.New("the table kept changing while it was read")

// Read asks the kernel which AppVMs are connected, in the network namespace of the calling thread. An error
// means that this could not be found out; it never means that there are none.
func Read() (Snapshot, error) { return read(0) }

// Look asks for no more than the AppVMs that the link of a Hint leads to, see [Snapshot.After].
func Look(h Hint) (Snapshot, error) {
	found, err := read(h.Link)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	return found, err
}

// read asks about all links, or about one.
func read(index int32) (Snapshot, error) {
	d, err := newDumper()
	if err != nil {
		return nil, err
	}
	defer d.close()
	// With strict checking the kernel sends only what has this link, table and type.
	filter := make([]byte, unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(filter[4:], uint32(index))
	addrs, err := dump(d, "IPv4 addresses", unix.RTM_GETADDR, unix.AF_INET, filter, decodeAddress)
	if err != nil {
		return nil, err
	}
	filter = make([]byte, unix.SizeofRtMsg)
	filter[4], filter[7] = unix.RT_TABLE_MAIN, unix.RTN_UNICAST
	if index != 0 {
		filter = binary.NativeEndian.AppendUint16(filter, unix.SizeofRtAttr+4)
		filter = binary.NativeEndian.AppendUint16(filter, unix.RTA_OIF)
		filter = binary.NativeEndian.AppendUint32(filter, uint32(index))
	}
	routes, err := dump(d, "IPv4 routes", unix.RTM_GETROUTE, unix.AF_INET, filter, decodeRoute)
	// The main table is made with its first route (inet_dump_fib in net/ipv4/fib_frontend.c).
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	if index != 0 { // where the kernel has sent all
		routes = slices.DeleteFunc(routes, func(r route) bool { return r.oif != index })
	}
	links, err := d.linksOf(routes)
	if err != nil {
		return nil, err
	}
	return connected(links, addrs, routes), nil
}

// linksOf asks for the links that routes to hosts lead to. For each the kernel tells in a microsecond what is of interest
// here (netdevice(7)); in a dump it puts together 1.5 kB about each.
func (d *dumper) linksOf(routes []route) ([]link, error) {
	conn, err := d.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	links := make([]link, 0, len(routes))
	asked := make(map[int32]bool, len(routes))
	var problem error
	err = conn.Control(func(fd uintptr) {
		for _, r := range routes {
			if r.oif == 0 || !r.toHost() || asked[r.oif] {
				continue
			}
			asked[r.oif] = true
			l, err := linkAt(int(fd), r.oif)
			if err == nil {
				links = append(links, l)
			} else if !errors.Is(err, unix.ENODEV) { // it has not just gone
				problem = err
			}
		}
	})
	return links, errors.Join(err, problem)
}

// linkAt asks about one link. Its name is what its index leads to first, and whether it is up is asked by that name.
func linkAt(fd int, index int32) (link, error) {
	req, err := unix.NewIfreq("")
	if err != nil {
		return link{}, err
	}
	req.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, req); err != nil {
		return link{}, fmt.Errorf("read the name of link %d: %w", index, err)
	}
	l := link{index: index, name: req.Name()}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return link{}, fmt.Errorf("read the flags of %s: %w", l.name, err)
	}
	l.up = req.Uint16()&unix.IFF_UP != 0
	return l, nil
}

func readLinks() ([]link, error) {
	d, err := newDumper()
	if err != nil {
		return nil, err
	}
	defer d.close()
	return d.links()
}

// open returns an rtnetlink socket that is subscribed to groups, a mask of RTMGRP_*. Since it is connected to
// the kernel, no other process can send it a message of its own (netlink_getsockbyportid in
// net/netlink/af_netlink.c); since it is non-blocking, it can be closed under a reader.
func open(groups uint32, options ...func(fd int)) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK,
		unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	for _, set := range options {
		set(fd)
	}
	file := os.NewFile(uintptr(fd), "rtnetlink")
	if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err == nil {
		err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	return file, nil
}

// dumper reads tables, one after the other.
type dumper struct {
	file *os.File
	buf  []byte
}

// buffers are those of dumpers that have been closed.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

func newDumper() (*dumper, error) {
	file, err := open(0, func(fd int) {
		// Linux before 4.20 ignores filters and sends everything: correct, and slower.
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	})
	if err != nil {
		return nil, err
	}
	return &dumper{file: file, buf: buffers.Get().(*[bufferSize]byte)[:]}, nil
}

func (d *dumper) close() {
	d.file.Close()
	buffers.Put((*[bufferSize]byte)(d.buf))
}

func (d *dumper) links() ([]link, error) {
	return dump(d, "links", unix.RTM_GETLINK, unix.AF_UNSPEC, make([]byte, unix.SizeofIfInfomsg), decodeLink)
}

// dump reads the table that an RTM_GET* message asks for, and once more whenever a change interrupted it.
func dump[T any](d *dumper, what string, get uint16, fam uint8, body []byte,
	decode func([]byte) (T, error)) ([]T, error) {
	body[0] = fam
	for range maxAttempts {
		var table []T
		err := d.exchange(get, body, func(m syscall.NetlinkMessage) error {
			if m.Header.Type != get-2 || family(m.Data) != fam { // RTM_NEW* is RTM_GET* less 2
				return nil
			}
			entry, err := decode(m.Data)
			table = append(table, entry)
			return err
		})
		if err == nil {
			return table, nil
		}
		if !errors.Is(err, errInterrupted) {
			return nil, fmt.Errorf("read %s: %w", what, err)
		}
	}
	return nil, fmt.Errorf("read %s: %w", what, errInterrupted)
}

// exchange sends one request and calls each for every message of the answer. After an answer that is complete
// but may have holes it returns errInterrupted.
func (d *dumper) exchange(get uint16, body []byte, each func(syscall.NetlinkMessage) error) error {
	request := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	request = binary.NativeEndian.AppendUint16(request, get)
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request = append(request, make([]byte, 8)...) // sequence number and sender: nobody else uses this socket
	if err := d.file.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if _, err := d.file.Write(append(request, body...)); err != nil {
		return err
	}
	for interrupted := false; ; {
		n, err := d.file.Read(d.buf)
		if err != nil {
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(d.buf[:n])
		if err != nil {
			return errMalformed
		}
		for _, m := range messages {
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			if m.Header.Type != unix.NLMSG_DONE && m.Header.Type != unix.NLMSG_ERROR {
				if err := each(m); err != nil {
					return err
				}
				continue
			}
			// Both begin with a negative errno or 0.
			if len(m.Data) < 4 {
				return errMalformed
			}
			if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
				return unix.Errno(errno)
			}
			if interrupted {
				return errInterrupted
			}
			return nil
		}
	}
}
