package nft

import (
	"errors"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/internal/netlink"
)

// Connection tracking has one table for everything that the firewall VM forwards. In a small netvm it has 2048 places (Qubes
// R4.2 with 300 MB). A connection that is over keeps its place for two minutes (nf_conntrack_tcp_timeout_time_wait), a
// question for a name for half a minute. An AppVM whose rules forbid everything else can still connect to its proxy as often as
// it likes, and for each request the proxy connects and asks too. So these entries are short-lived, and each AppVM has a
// bounded share of the table, on both sides of its proxy:
//
//   - The guard bounds the new connections of an AppVM, and those that it holds. It resets the rest before it is tracked.
//   - The fence bounds the same of a proxy, by its uid. A SYN that comes too fast is dropped, and the kernel sends it again a
//     second later, so a burst takes longer and nothing fails. If a proxy holds too many, it is refused.

// bounds are what one AppVM may use of connection tracking.
type bounds struct {
	rate, burst, held uint32 // of connections to its proxy, on one vif

	proxyBurst uint32 // of those that its proxy makes, at the same rate, and as many of them held
	questions  uint32 // for names, under way or answered a moment ago
	resolver   uint32 // the same of the resolver, which bounds each AppVM itself
}

const (
	ratePart      = 64  // of the table, in new connections a second: with what each leaves behind, a quarter of it
	rateMin       = 32  // new connections a second, for a table however small
	burstMin      = 256 // before that: a browser opens 100 at once
	proxyBurstMin = 128 // the same of a proxy, which is only made to wait
	heldPart      = 8   // of the table, in connections that one AppVM holds
	heldMin       = 256 // of which MaxClients are served, usually 100
	questionsPart = 5   // of the table, in questions for names
	questionsMin  = 384 // as many as 400 requests at once make, while all but a burst of their connections wait

	questionRate = 8000 // questions a second of one proxy, and as many at once: twice what the resolver takes, which counts the rest
	resolverPart = 2    // of the table, in questions of the resolver to name servers
	resolverMin  = 512  // as many as one AppVM has it ask at once, and in the seconds after that

	rateMemory   = time.Minute      // after which an AppVM that has been silent has its burst again
	beyondMemory = 10 * time.Second // for which people are told that a proxy wanted more
	keptMax      = 4096             // AppVMs for which that is remembered; connections of others are reset

	// resolverRoom is more than the one uid of the resolver. When no question is under way, the kernel drops the
	// element that counts them. That keeps its place until the kernel has cleaned up, which it puts off by a second whenever rules or
	// sets change (nft_rhash_gc in net/netfilter/nft_set_hash.c, seen on 6.18).
	resolverRoom = keptMax
)

// Seconds for which connection tracking remembers a connection to or from a proxy, by its last state.
var (
	tcpSeconds = [...]struct {
		state   uint16 // CTA_TIMEOUT_TCP_*
		seconds uint32
	}{
		{1, 10}, {2, 10}, // SYN_SENT, SYN_RECV
		{3, 7440},                                 // ESTABLISHED: 2 hours and 4 minutes, the least of RFC 5382, REQ-5; Linux has 5 days
		{4, 30}, {5, 30}, {6, 10}, {7, 1}, {8, 1}, // FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE
	}
	udpSeconds uint32 = 5 // glibc asks again then (RES_TIMEOUT), which is tracked anew
)

// resolverSeconds are those for which a question of the resolver to a name server is remembered, or its answer. It asks again sooner.
var resolverSeconds uint32 = 2

const tcpTimeouts, udpTimeouts, resolverTimeouts = "short_tcp", "short_udp", "short_resolver" // objects that rules refer to

var (
	ratesSet = &set{table: ownTable, name: "rates", key: keys(ifname, ipv4Addr)}
	heldSet  = &set{table: ownTable, name: "held", key: keys(ifname, ipv4Addr)}

	proxyRatesSet = &set{table: fenceTable, name: "rates", key: keys(uid)}
	proxyHeldSet  = &set{table: fenceTable, name: "held", key: keys(uid)}
	floodsSet     = &set{table: fenceTable, name: "floods", key: keys(uid)}
	questionsSet  = &set{table: fenceTable, name: "questions", key: keys(uid)}
	resolverSet   = &set{table: fenceTable, name: "resolver", key: keys(uid)}
	beyondSet     = &set{table: fenceTable, name: "beyond", key: keys(uid)} // proxies that were refused more a moment ago
)

func boundsOf(tracked int) *bounds {
	b := &bounds{rate: uint32(max(tracked/ratePart, rateMin)), held: uint32(max(tracked/heldPart, heldMin)),
		questions: uint32(max(tracked/questionsPart, questionsMin)), resolver: uint32(max(tracked/resolverPart, resolverMin))}
	b.burst, b.proxyBurst = max(2*b.rate, burstMin), max(2*b.rate, proxyBurstMin)
	return b
}

// declareBounds makes the sets and objects that the rules of bounds refer to.
func declareBounds(c firewall.Config) [][]byte {
	const l3proto, l4proto, times = 1, 2, 3 // NFTA_CT_TIMEOUT_*
	object := func(table, name string, family uint16, proto byte, fill func(to []byte) []byte) []byte {
		attrs := netlink.Append(netlink.Append(nil, unix.NFTA_OBJ_NAME, append([]byte(name), 0)...), unix.NFTA_OBJ_TYPE, net32(unix.NFT_OBJECT_CT_TIMEOUT)...)
		attrs = netlink.AppendNested(attrs, unix.NFTA_OBJ_DATA, func(to []byte) []byte {
			to = netlink.Append(to, l3proto, net16(family)...)
			to = netlink.Append(to, l4proto, proto)
			return netlink.AppendNested(to, times, fill)
		})
		return about(unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE|unix.NLM_F_EXCL, table, attrs)
	}
	tcp := func(to []byte) []byte {
		for _, s := range tcpSeconds {
			to = netlink.Append(to, s.state, net32(s.seconds)...)
		}
		return to
	}
	udp := func(seconds uint32) func([]byte) []byte {
		return func(to []byte) []byte {
			// CTA_TIMEOUT_UDP_UNREPLIED, CTA_TIMEOUT_UDP_REPLIED. A shorter time after the answer would have no effect: the second one counts
			// only 2 s after the first packet (nf_conntrack_udp_packet, 5.0 to 6.18).
			for _, state := range []uint16{1, 2} {
				to = netlink.Append(to, state, net32(seconds)...)
			}
			return to
		}
	}
	all := [][]byte{
		dynamic(ratesSet, unix.NFT_SET_TIMEOUT, keptMax),
		dynamic(proxyRatesSet, unix.NFT_SET_TIMEOUT, keptMax),
		dynamic(proxyHeldSet, 0, keptMax),
		dynamic(floodsSet, unix.NFT_SET_TIMEOUT, keptMax),
		dynamic(questionsSet, 0, keptMax),
		dynamic(resolverSet, 0, resolverRoom),
		dynamic(beyondSet, unix.NFT_SET_TIMEOUT, keptMax),
		// Of IPv6 as well: the kernel compares the transport protocol only (nft_ct_timeout_obj_eval in net/netfilter/nft_ct.c, 4.19
		// to 6.18; findings/ct-timeout-of-ipv4-holds-for-ipv6.sh).
		object(fenceTable, tcpTimeouts, unix.NFPROTO_IPV4, unix.IPPROTO_TCP, tcp),
		object(fenceTable, udpTimeouts, unix.NFPROTO_IPV4, unix.IPPROTO_UDP, udp(udpSeconds)),
		object(fenceTable, resolverTimeouts, unix.NFPROTO_IPV4, unix.IPPROTO_UDP, udp(resolverSeconds)),
	}
	if !c.Switchboard { // what it hands over is not tracked
		all = append(all, dynamic(heldSet, 0, keptMax), object(ownTable, tcpTimeouts, unix.NFPROTO_IPV4, unix.IPPROTO_TCP, tcp))
	}
	return all
}

// ofAppVM matches new connections of an AppVM to its proxy within the bounds. Those that the switchboard hands over are not tracked.
func (b *bounds) ofAppVM(c firewall.Config) Rule {
	if b == nil {
		return nil
	}
	rates := each(ratesSet.name, rateMemory, within(b.rate, b.burst), iifname, ipSaddr)
	if c.Switchboard {
		return rates
	}
	return All(rates, each(heldSet.name, 0, ctCountWithin(b.held), iifname, ipSaddr))
}

// bound adds the bounds of proxies to chains of the skeleton. The fence passes its packets to the chain "bounded", which passes what is
// within the bounds to the chain that knows where a proxy may go.
func (b *bounds) bound(chains []chain, c firewall.Config) []chain {
	fence := slices.IndexFunc(chains, func(ch chain) bool { return ch.name == "fence" })
	chains[fence].rules[0] = jump("bounded")
	if !c.Switchboard {
		chains = append(chains, chain{"vifproxy", "timeouts_in", hook{"filter", unix.NF_INET_PRE_ROUTING, afterTracking}, []Rule{
			All(FromVif, TCP, syn, is(dport, net16(c.ProxyPort)...), local, ctTimeoutSet(tcpTimeouts)),
		}})
	}
	return append(chains,
		chain{"inet vifproxy", "bounded", hook{}, slices.Concat([]Rule{
			All(TCP, notSyn, goTo("egress")),
			All(TCP, each(proxyRatesSet.name, rateMemory, within(b.rate, b.proxyBurst), skuid), goTo("begin")),
			All(TCP, each(beyondSet.name, beyondMemory, counter, skuid), drop),
		}, b.questionRules(c), []Rule{
			All(each(beyondSet.name, beyondMemory, counter, skuid)),
		})},
		chain{"inet vifproxy", "begin", hook{}, []Rule{
			All(each(proxyHeldSet.name, 0, ctCountWithin(b.held), skuid), ctTimeoutSet(tcpTimeouts), goTo("egress")),
			All(each(beyondSet.name, beyondMemory, counter, skuid)),
		}})
}

// questionRules returns the rules for questions: of proxies to the resolver, and of the resolver to name servers. A flood of questions is
// dropped: those of all proxies wait in one queue, and one socket, which is tracked once, can fill it. An answer of the resolver belongs
// to what is tracked of the question. A question of the resolver that is beyond its share is dropped, because a refusal would look as if
// the name server did not answer.
func (b *bounds) questionRules(c firewall.Config) []Rule {
	return []Rule{
		All(udp, isNoResolver(c), each(floodsSet.name, rateMemory, over(questionRate, questionRate), skuid),
			each(beyondSet.name, beyondMemory, counter, skuid), drop),
		All(udp, isNoResolver(c), each(questionsSet.name, 0, ctCountWithin(b.questions), skuid), ctTimeoutSet(udpTimeouts), goTo("egress")),
		All(udp, isResolver(c), backward, goTo("egress")),
		All(udp, isResolver(c), each(resolverSet.name, 0, ctCountWithin(b.resolver), skuid), ctTimeoutSet(resolverTimeouts), goTo("egress")),
		All(udp, isResolver(c), each(beyondSet.name, beyondMemory, counter, skuid), drop),
	}
}

// Beyond reports whether the bounds have kept a proxy from a connection or a question a moment ago. It may be called from any
// goroutine; it is about the network of the calling thread.
func Beyond(uid uint32) (bool, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETSETELEM, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family(fenceTable), Version: nl.NFNETLINK_V0})
	req.AddRawData(netlink.AppendNested(beyondSet.attributes(), unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list []byte) []byte {
		return netlink.AppendNested(list, unix.NFTA_LIST_ELEM, func(one []byte) []byte {
			return value(one, unix.NFTA_SET_ELEM_KEY, string(uidBytes(uid)))
		})
	}))
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}
