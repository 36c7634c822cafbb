package firewalltest

import (
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// Tapped notes what is asked of the kernel: one line for each request, which of a transaction names all its parts.
type Tapped struct {
	io.ReadWriteCloser
	requests  []string
	Meanwhile func() // before each transaction, if not nil
}

// Tap puts itself between a connection and the kernel.
func Tap(conn *ruleset.Conn) *Tapped {
	t := &Tapped{ReadWriteCloser: conn.Socket}
	conn.Socket = t
	return t
}

func (t *Tapped) Write(request []byte) (int, error) {
	names := map[uint16]string{
		unix.NFNL_MSG_BATCH_BEGIN: "begin", unix.NFNL_MSG_BATCH_END: "end",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN:     "generation",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM: "add",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSETELEM: "delete",
	}
	var parts []string
	for m := request; len(m) > 0; m = m[binary.NativeEndian.Uint32(m):] {
		kind := binary.NativeEndian.Uint16(m[4:])
		if names[kind] == "" {
			names[kind] = "other"
		}
		parts = append(parts, names[kind])
	}
	t.requests = append(t.requests, strings.Join(parts, " "))
	if parts[0] == "begin" && t.Meanwhile != nil {
		t.Meanwhile()
	}
	return t.ReadWriteCloser.Write(request)
}

// Asked returns the requests since the last call.
func (t *Tapped) Asked() string {
	all := strings.Join(t.requests, ", ")
	t.requests = nil
	return all
}

// Foreigner is another program, with a table of its own.
type Foreigner struct {
	Conn    *ruleset.Conn
	Ours    [][]byte // requests for the elements of the sets that the firewall keeps
	written int
}

// NewForeigner makes one with a table that nobody else minds.
func NewForeigner(t testing.TB, m Machine) *Foreigner {
	m.Shell(t, "nft add table ip other; nft add set ip other some '{ type mark; }'")
	conn, err := ruleset.Dial()
	Must(t, err)
	t.Cleanup(func() { conn.Close() })
	return &Foreigner{Conn: conn}
}

// Write puts an element into its set, or takes it out again.
func (f *Foreigner) Write(t testing.TB) {
	t.Helper()
	request, flags := uint16(unix.NFT_MSG_NEWSETELEM), uint16(unix.NLM_F_CREATE)
	if f.written++; f.written%2 == 0 {
		request, flags = unix.NFT_MSG_DELSETELEM, 0
	}
	attrs := netlink.AppendString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, "other")
	attrs = netlink.AppendString(attrs, unix.NFTA_SET_ELEM_LIST_SET, "some")
	attrs = netlink.AppendNested(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list []byte) []byte {
		return netlink.AppendNested(list, unix.NFTA_LIST_ELEM, func(one []byte) []byte {
			return netlink.AppendNested(one, unix.NFTA_SET_ELEM_KEY, func(key []byte) []byte {
				return netlink.Append(key, unix.NFTA_DATA_VALUE, []byte("mark")...)
			})
		})
	})
	Must(t, f.Conn.Transact(0, [][]byte{ruleset.Message(request, unix.NFPROTO_IPV4, flags, attrs)}))
}

// Look notes which sets there are that Sync fills.
func (f *Foreigner) Look(t testing.TB) {
	sets, err := f.Conn.Dump(unix.NFT_MSG_GETSET, unix.NFPROTO_UNSPEC, "")
	Must(t, err)
	for _, s := range sets {
		table, name := s.Table(unix.NFTA_SET_TABLE), s.Text(unix.NFTA_SET_NAME)
		flags := s.Number(unix.NFTA_SET_FLAGS)
		ours := table == "vifproxy" || table == "inet vifproxy" || table == "qubes" && name == "vifproxy"
		if ours && flags&(unix.NFT_SET_CONSTANT|unix.NFT_SET_EVAL) == 0 {
			attrs := netlink.AppendString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, s.Text(unix.NFTA_SET_TABLE))
			attrs = netlink.AppendString(attrs, unix.NFTA_SET_ELEM_LIST_SET, name)
			f.Ours = append(f.Ours, ruleset.Message(unix.NFT_MSG_GETSETELEM, s.Family, unix.NLM_F_DUMP, attrs))
		}
	}
}
