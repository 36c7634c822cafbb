package netwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"vifproxy/internal/netlink"
)

// attemptsMax is how often one table is read when changes keep interrupting the reading.
const attemptsMax = 10

// Read asks the kernel which AppVMs are connected, in the network namespace of the calling thread. An error
// means that this could not be found out; it never means that there are none.
func Read() (Snapshot, error) { return read(0) }

// Look returns only the AppVMs that the link of a Hint leads to, see [Snapshot.After].
func Look(h Hint) (Snapshot, error) {
	found, err := read(h.Link)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	return found, err
}

// read asks about all links, or about one.
func read(index int32) (Snapshot, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// With strict checking the kernel sends only what has this link, table and type.
	filter := make([]byte, unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(filter[4:], uint32(index))
	addrs, err := dump(conn, "IPv4 addresses", unix.RTM_GETADDR, unix.AF_INET, filter, decodeAddress)
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
	routes, err := dump(conn, "IPv4 routes", unix.RTM_GETROUTE, unix.AF_INET, filter, decodeRoute)
	// The main table is made with its first route (inet_dump_fib in net/ipv4/fib_frontend.c).
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	if index != 0 { // where the kernel has sent all
		routes = slices.DeleteFunc(routes, func(r route) bool { return r.oif != index })
	}
	links, err := linksOf(conn, routes)
	if err != nil {
		return nil, err
	}
	return connected(links, addrs, routes), nil
}

// linksOf asks for the links that routes to hosts lead to. For each the kernel answers in a microsecond (netdevice(7)); in a dump it
// puts together 1.5 kB about each.
func linksOf(conn *netlink.Conn, routes []route) ([]link, error) {
	links := make([]link, 0, len(routes))
	asked := make(map[int32]bool, len(routes))
	var problem error
	err := conn.Control(func(fd uintptr) {
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

// linkAt asks about one link: by its index for its name, and by its name whether it is up.
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
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return allLinks(conn)
}

func allLinks(conn *netlink.Conn) ([]link, error) {
	return dump(conn, "links", unix.RTM_GETLINK, unix.AF_UNSPEC, make([]byte, unix.SizeofIfInfomsg), decodeLink)
}

func dial() (*netlink.Conn, error) {
	return netlink.Dial(unix.NETLINK_ROUTE, func(fd int) error {
		// Linux before 4.20 ignores filters and sends everything: correct, and slower.
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
		return nil
	})
}

// dump reads the table that an RTM_GET* message asks for, and once more whenever a change interrupted it.
func dump[T any](conn *netlink.Conn, what string, get uint16, fam uint8, body []byte,
	decode func([]byte) (T, error)) ([]T, error) {
	body[0] = fam
	var err error
	for range attemptsMax {
		var table []T
		err = conn.Exchange(netlink.Dump(get, body), func(m netlink.Message) error {
			if m.Type != get-2 || family(m.Body) != fam { // RTM_NEW* is RTM_GET* less 2
				return nil
			}
			entry, err := decode(m.Body)
			table = append(table, entry)
			return err
		})
		if err == nil {
			return table, nil
		}
		if !errors.Is(err, netlink.ErrInterrupted) {
			break
		}
	}
	return nil, fmt.Errorf("read %s: %w", what, err)
}
