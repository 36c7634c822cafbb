package doctor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/policy"
	"vifproxy/internal/resolvconf"
	"vifproxy/rules"
)

const (
	resolverTimeout = 2 * time.Second // for the answers of all resolvers, which are asked side by side
	replyMax        = 64 << 10        // bytes of a datagram
	resolversMax    = 3               // that the C library asks (MAXNS in glibc's resolv.h)
)

// local is a name that a resolver answers without asking another one (RFC 6761, 6.3).
const local = "localhost"

// resolvers asks each name server once for a name that needs no internet, and for one of a rule file. The socket has the uid of
// vifproxy-names, so fence and rules of other programs decide as for that.
func (d *doctor) resolvers(ctx context.Context) {
	const check = "resolvers"
	servers, err := resolvconf.Read(d.Root + "/etc/resolv.conf")
	if err != nil {
		d.report(check, Wrong, "", "%v", err)
		return
	}
	servers = servers[:min(len(servers), resolversMax)]
	if why := resolvconf.Unasked(servers, d.lacksLandlock()); why != nil {
		d.report(check, Wrong, resolvconf.UnaskedRemedy, "%v", why)
	}
	host := d.exampleHost()
	uid := d.resolverUID()
	states := make([]resolverState, len(servers))
	ctx, cancel := context.WithTimeout(ctx, resolverTimeout)
	defer cancel()
	var asked sync.WaitGroup
	for i, server := range servers {
		asked.Go(func() { states[i] = stateOf(ctx, server, host, uid) })
	}
	asked.Wait()

	best := slices.Index(states, answers) // the C library asks them in turn
	for _, about := range resolverFindings {
		var first, others []string
		for i, state := range states {
			switch {
			case state != about.state:
			case best < 0 || i < best && about.costs:
				first = append(first, servers[i].String())
			default:
				others = append(others, servers[i].String())
			}
		}
		text := strings.ReplaceAll(about.one, "HOST", host)
		many := strings.ReplaceAll(about.many, "HOST", host)
		d.reportEach(check, Wrong, about.remedy, text, many, first)
		d.reportEach(check, Note, about.remedy, text+"; another one does", many+"; another one does", others)
	}
	var good, inventing []string
	for i, state := range states {
		switch state {
		case answers:
			good = append(good, servers[i].String())
			d.answering = append(d.answering, servers[i])
		case stopped:
			d.stopped = append(d.stopped, servers[i])
		case invents:
			inventing = append(inventing, servers[i].String())
		}
	}
	d.inventedAddresses(inventing)
	d.reportEach(check, OK, "", "%s answers", "%d answer: %s", good)
}

// lacksLandlock reports whether proxies read resolv.conf themselves.
func (d *doctor) lacksLandlock() bool {
	return slices.ContainsFunc(d.setup.Confinement.Missing, func(m control.Lack) bool { return m.Mechanism == "landlock" && !m.InPart })
}

// A resolverState is the outcome of the questions to a resolver.
type resolverState int

const (
	answers resolverState = iota
	invents               // it answers with addresses of its own invention
	silent
	closed  // no program listens there
	stopped // by rules of this VM
	unrouted
	fails // it answers for its own name only
)

var resolverFindings = []struct {
	state             resolverState
	costs             bool // seconds of each look-up, if it is asked before one that answers
	one, many, remedy string
}{
	{silent, true, "resolver %s does not answer", "%d resolvers do not answer: %s", writeResolver},
	{closed, false, "nobody answers questions at resolver %s", "nobody answers questions at %d resolvers: %s", writeResolver},
	{stopped, true, "rules of this VM let no question of a proxy out to resolver %s",
		"rules of this VM let no question of a proxy out to %d resolvers: %s", "see below, others; else `nft list ruleset`"},
	{unrouted, false, "no route leads to resolver %s", "no route leads to %d resolvers: %s", writeResolver},
	{fails, true, "resolver %s answers, but knows no addresses of HOST: it has no internet, or refuses",
		"%d resolvers answer, but know no addresses of HOST: they have no internet, or refuse: %s", writeResolver},
}

const writeResolver = "see whether the netvm runs and has a network; else write a resolver that answers into /etc/resolv.conf, " +
	"which proxies follow at once"

// inventedNetwork is the network from which resolvers of Clash and sing-box answer ("fake-ip"), with a new address each time.
var inventedNetwork = netip.MustParsePrefix("198.18.0.0/15")

// inventedAddresses reports AppVMs whose proxies may not connect to such addresses.
func (d *doctor) inventedAddresses(by []string) {
	if len(by) == 0 {
		return
	}
	opens := func(all []rules.Egress) bool {
		return slices.ContainsFunc(all, func(e rules.Egress) bool {
			return e.To.Contains(inventedNetwork.Addr()) && e.To.Bits() <= inventedNetwork.Bits()
		})
	}
	forAll, _ := rules.ParseEgress(strings.Join(d.setup.EgressAllow, ",")) // as vifproxyd has written it
	var shut []string
	for _, file := range d.rules.Files {
		if !opens(file.Egress) && !opens(forAll) {
			shut = append(shut, file.Name)
		}
	}
	answer := "answer"
	if len(by) == 1 {
		answer = "answers"
	}
	who := fmt.Sprintf("%s %s with addresses of %s", strings.Join(by, ", "), answer, inventedNetwork)
	d.reportEach("resolvers", Wrong, fmt.Sprintf("write the line `#: egress %s` into the rule file, or for all vifproxyd --egress-allow=%[1]s; "+
		"or use a resolver that tells real addresses", inventedNetwork),
		who+", which are its own invention, and the proxy of %s may not go there",
		who+", which are its own invention, and %d proxies may not go there: %s", shut)
	if len(shut) == 0 {
		d.report("resolvers", OK, "", "%s, which are open", who)
	}
}

// exampleHost returns a host that an AppVM may reach, "" if no list names one.
func (d *doctor) exampleHost() string {
	if filter, err := policy.FilterOf(d.rules.Template); err != nil || !filter.DefaultDeny {
		return ""
	}
	for _, file := range d.rules.Files {
		if hosts := file.Hosts(); len(hosts) > 0 {
			return hosts[0]
		}
	}
	return ""
}

// resolverUID returns the uid of vifproxy-names; that of doctor if vifproxyd does not run.
func (d *doctor) resolverUID() int {
	if d.status == nil || d.setup.Names.UID == 0 || os.Geteuid() != 0 {
		return os.Geteuid()
	}
	return int(d.setup.Names.UID)
}

// proxyUID returns the uid of a proxy that runs; that of doctor if none does.
func (d *doctor) proxyUID() int {
	if d.status == nil || os.Geteuid() != 0 {
		return os.Geteuid()
	}
	for _, vm := range d.status.VMs {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", vm.PID))
		for line := range strings.Lines(string(text)) {
			if words := strings.Fields(line); vm.State == control.Running && len(words) > 1 && words[0] == "Uid:" {
				if uid, err := strconv.Atoi(words[1]); err == nil {
					return uid
				}
			}
		}
	}
	return os.Geteuid()
}

// stateOf asks a resolver for a name of its own and for a host.
func stateOf(ctx context.Context, server netip.Addr, host string, uid int) resolverState {
	names := []string{local}
	if host != "" {
		names = append(names, host)
	}
	answered := make([]dnsmessage.Message, len(names))
	errs := make([]error, len(names))
	var asked sync.WaitGroup
	for i, name := range names {
		asked.Go(func() { answered[i], errs[i] = askName(ctx, server, name, dnsmessage.TypeA, uid) })
	}
	asked.Wait()
	last := len(names) - 1
	reply, err := answered[last], errs[last]
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return stopped
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return unrouted
	case errors.Is(err, unix.ECONNREFUSED):
		return closed
	case err != nil && errs[0] != nil:
		return silent
	case err != nil, host != "" && (reply.RCode == dnsmessage.RCodeServerFailure || reply.RCode == dnsmessage.RCodeRefused):
		return fails
	}
	for _, answer := range reply.Answers {
		if a, ok := answer.Body.(*dnsmessage.AResource); ok && inventedNetwork.Contains(netip.AddrFrom4(a.A)) {
			return invents
		}
	}
	return answers
}

// askName asks a resolver for the addresses of a name, of a type, from a socket of a uid.
func askName(ctx context.Context, server netip.Addr, name string, kind dnsmessage.Type, uid int) (reply dnsmessage.Message, err error) {
	id := uint16(rand.Uint32())
	question, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return reply, err
	}
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: question, Type: kind, Class: dnsmessage.ClassINET}},
	}
	text, err := message.Pack()
	if err != nil {
		return reply, err
	}
	conn, err := dialAs(ctx, uid, "udp", netip.AddrPortFrom(server, 53))
	if err != nil {
		return reply, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return reply, err
	}
	if _, err := conn.Write(text); err != nil {
		return reply, err
	}
	buf := make([]byte, replyMax)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return reply, err
		}
		if err := reply.Unpack(buf[:n]); err == nil && reply.ID == id && reply.Response {
			return reply, nil
		}
	}
}

// dialAs dials from a socket that belongs to a uid, which rules ask for (meta skuid). The kernel takes the file-system uid of the thread
// that makes the socket (sock_alloc in net/socket.c, nft_meta_get_eval_skugid).
func dialAs(ctx context.Context, uid int, network string, to netip.AddrPort) (net.Conn, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was, err := unix.SetfsuidRetUid(uid)
	if err != nil {
		return nil, err
	}
	defer unix.SetfsuidRetUid(was) //nolint:errcheck // back to what it was
	var dialer net.Dialer
	return dialer.DialContext(ctx, network, to.String())
}
