package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy"
)

// These functions return what the kernel holds in the firewall VM.

// dump has the kernel list all that vifproxyd is about: links, addresses, routes, bindings, listening sockets.
// Nobody looks at the answers. It must be called in the firewall VM.
func dump() error {
	for kind, body := range map[int]nl.NetlinkRequestData{
		unix.RTM_GETLINK:  nl.NewIfInfomsg(unix.AF_UNSPEC),
		unix.RTM_GETADDR:  nl.NewIfAddrmsg(unix.AF_INET),
		unix.RTM_GETROUTE: nl.NewRtMsg(),
	} {
		request := nl.NewNetlinkRequest(kind, unix.NLM_F_DUMP)
		request.AddData(body)
		if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
			return fmt.Errorf("list links, addresses, routes: %w", err)
		}
	}
	for _, set := range [][2]string{{"vifproxy", "ports"}, {"vifproxy", "bindings"}, {"qubes", "vifproxy"}} {
		request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP)
		request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET})
		request.AddData(nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(set[0])))
		request.AddData(nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(set[1])))
		_, err := request.Execute(unix.NETLINK_NETFILTER, 0)
		if err != nil && (set[1] != "ports" || !errors.Is(err, unix.ENOENT)) { // beside a switchboard there is no nat
			return fmt.Errorf("list %s of table %s: %w", set[1], set[0], err)
		}
	}
	const listening = 10 // include/net/tcp_states.h
	diag := make([]byte, 56)
	diag[0], diag[1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(diag[4:], 1<<listening)
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddRawData(diag)
	if _, err := request.Execute(unix.NETLINK_INET_DIAG, 0); err != nil {
		return fmt.Errorf("list listening sockets: %w", err)
	}
	return nil
}

// bindings are the "vif address" that the kernel lets connect to a proxy, sorted.
func (s *site) bindings() (all []string, err error) {
	err = s.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "vifproxy"}
		set, err := conn.GetSetByName(table, "bindings")
		if err != nil {
			return err
		}
		elements, err := conn.GetSetElements(set)
		for _, e := range elements {
			vif, _, _ := bytes.Cut(e.Key[:16], []byte{0})
			if string(vif) != "lo" { // by which the daemon asks a proxy itself
				all = append(all, fmt.Sprintf("%s %d.%d.%d.%d", vif, e.Key[16], e.Key[17], e.Key[18], e.Key[19]))
			}
		}
		return err
	})
	slices.Sort(all)
	return all, err
}

// proxies returns the users of the proxies in the firewall VM's network, by process.
func (s *site) proxies() (map[int]uint32, error) {
	return s.Processes(tinyproxy.FirstUID, tinyproxy.NamesUID-1)
}
