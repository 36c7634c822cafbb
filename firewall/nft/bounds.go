package nft

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/netlink"
)

// Connection tracking has one table for everything that the firewall VM forwards. In a small netvm it has 2048 places (Qubes
// R4.2 with 300 MB). A connection that is over keeps its place for two minutes (nf_conntrack_tcp_timeout_time_wait), a
// question for a name for half a minute. An AppVM whose rules forbid everything else can still connect to its proxy as often as
// it likes, and for each request the proxy connects and asks too. So these entries are forgotten within seconds. Each AppVM has a
// bounded share of new connections, and of those that it holds; the rest is reset before it is tracked.

// bounds are what one AppVM may use of connection tracking, on one vif.
type bounds struct{ rate, burst, held uint32 }

const (
	ratePart = 64  // of the table, in new connections a second: with what each leaves behind, a quarter of it
	rateMin  = 32  // new connections a second, for a table however small
	burstMin = 256 // before that: a browser opens 100 at once
	heldPart = 8   // of the table, in connections that one AppVM holds
	heldMin  = 256 // of which MaxClients are served, usually 100

	rateMemory = time.Minute // after which an AppVM that has been silent has its burst again
	keptMax    = 4096        // AppVMs for which that is remembered; others are not bounded

	trackedDefault = 2048 // places, if the kernel does not say how many
)

// Seconds for which connection tracking remembers a connection to or from a proxy, by its last state.
var (
	tcpSeconds = [...]struct {
		state   uint16 // CTA_TIMEOUT_TCP_*
		seconds uint32
	}{{2, 10}, {4, 30}, {5, 30}, {6, 10}, {7, 3}, {8, 3}} // SYN_RECV, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE
	udpSeconds uint32 = 10 // a resolver asks again after 5 (RES_TIMEOUT of glibc)
)

const tcpTimeouts, udpTimeouts = "short_tcp", "short_udp" // objects that rules refer to

var (
	ratesSet = &set{table: ownTable, name: "rates", key: keys(ifname, ipv4Addr)}
	heldSet  = &set{table: ownTable, name: "held", key: keys(ifname, ipv4Addr)}
)

// TrackedMax returns how many connections can be tracked. Tests replace it.
var TrackedMax = func() int {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if n, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
		return n
	}
	return trackedDefault
}

func boundsOf(tracked int) *bounds {
	b := &bounds{rate: uint32(max(tracked/ratePart, rateMin)), held: uint32(max(tracked/heldPart, heldMin))}
	b.burst = max(2*b.rate, burstMin)
	return b
}

// declareBounds makes the sets and objects that the rules of bounds refer to.
func declareBounds() [][]byte {
	const l3proto, l4proto, times = 1, 2, 3 // NFTA_CT_TIMEOUT_*
	object := func(name string, proto byte, fill func(to []byte) []byte) []byte {
		attrs := netlink.Append(netlink.Append(nil, unix.NFTA_OBJ_NAME, append([]byte(name), 0)...), unix.NFTA_OBJ_TYPE, net32(unix.NFT_OBJECT_CT_TIMEOUT)...)
		attrs = netlink.AppendNested(attrs, unix.NFTA_OBJ_DATA, func(to []byte) []byte {
			to = netlink.Append(to, l3proto, net16(unix.NFPROTO_IPV4)...)
			to = netlink.Append(to, l4proto, proto)
			return netlink.AppendNested(to, times, fill)
		})
		return about(unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "vifproxy", attrs)
	}
	return [][]byte{
		dynamic(ratesSet, unix.NFT_SET_TIMEOUT, keptMax),
		dynamic(heldSet, 0, keptMax),
		object(tcpTimeouts, unix.IPPROTO_TCP, func(to []byte) []byte {
			for _, s := range tcpSeconds {
				to = netlink.Append(to, s.state, net32(s.seconds)...)
			}
			return to
		}),
		object(udpTimeouts, unix.IPPROTO_UDP, func(to []byte) []byte {
			for _, state := range []uint16{1, 2} { // CTA_TIMEOUT_UDP_UNREPLIED, CTA_TIMEOUT_UDP_REPLIED
				to = netlink.Append(to, state, net32(udpSeconds)...)
			}
			return to
		}),
	}
}
