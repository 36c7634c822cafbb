package explain

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// fenceStep says whether the fence lets the proxy connect to the addresses of the host.
func (x Explainer) fenceStep(ctx context.Context, s Subject, r tinyproxy.Request) (step control.Step, by opening, err error) {
	step = control.Step{Guard: guardFence, Passes: true, Lines: []control.Line{}}
	if up, ok := s.Config.UpstreamFor(r.Host); ok {
		step, err = x.upstreamStep(ctx, s, up)
		return step, by, err
	}
	addrs, err := x.addressesOf(ctx, r.Host)
	if err != nil {
		step.Says = "not asked, as no address of the host is known now: " + err.Error()
		return step, by, nil
	}
	open := s.Fence // the port for this proxy
	open.Proxies = append(slices.Clone(open.Proxies), firewall.Proxy{UID: s.UID, Ports: []uint16{r.Port}})
	var says []string
	for _, addr := range addrs { // tinyproxy takes the first that answers
		verdict, err := s.Fence.Judge(s.UID, netip.AddrPortFrom(addr, r.Port))
		if err != nil {
			return step, by, err
		}
		if verdict.Passes {
			step.Passes = true
			step.Says, step.Lines = s.opens(netip.AddrPortFrom(addr, r.Port), verdict)
			return step, opening{}, nil
		}
		step.Passes = false
		says = append(says, fmt.Sprintf("%s is refused: %s", addr, verdict.Why))
		if verdict, err = open.Judge(s.UID, netip.AddrPortFrom(addr, r.Port)); err != nil {
			return step, by, err
		}
		by.port = by.port || verdict.Passes
	}
	step.Says = strings.Join(says, "; ")
	if by.port {
		step.Says += fmt.Sprintf(" (the line `%s` in the rule file opens it)", s.portLine(r))
		return step, by, nil
	}
	text, line, err := s.egressLine(netip.AddrPortFrom(addrs[0], r.Port), step.Says)
	step.Says += text
	return step, opening{egress: line}, err
}

// upstreamStep says whether the fence lets the proxy connect to the addresses of an Upstream. tinyproxy takes the first that
// answers.
func (x Explainer) upstreamStep(ctx context.Context, s Subject, up tinyproxy.Upstream) (control.Step, error) {
	step := control.Step{Guard: guardFence, Passes: true, Lines: []control.Line{},
		Says: fmt.Sprintf("the Upstream of the template `config`, %s:%d, connects for it", up.Host, up.Port)}
	addrs, err := x.addressesOf(ctx, up.Host)
	if err != nil {
		step.Says += "; no address of it is known now: " + err.Error()
		return step, nil
	}
	for _, addr := range addrs {
		verdict, err := s.Fence.Judge(s.UID, netip.AddrPortFrom(addr, up.Port))
		if err != nil {
			return step, err
		}
		if step.Passes = verdict.Passes; step.Passes {
			step.Says += fmt.Sprintf("; %s is open", addr)
			return step, nil
		}
		step.Says += fmt.Sprintf("; %s is refused: %s", addr, verdict.Why)
	}
	if _, err := netip.ParseAddr(up.Host); err != nil {
		step.Says += " (the name's addresses of the last 10 min are open, but for those of this VM and of AppVMs: " +
			"if it is meant to be there, write the address into the template `config`)"
	}
	return step, nil
}

// invented is the network from which the resolvers of some proxies answer, with another address each time (Clash and sing-box,
// "fake-ip").
var invented = netip.MustParsePrefix("198.18.0.0/15")

// egressLine says which line opens an address, or why none is proposed, or why a line that seems to open it does not. An address
// that no network opens is one of this VM or an AppVM's. For it no line is proposed, and open is the zero Egress.
func (s Subject) egressLine(to netip.AddrPort, says string) (text string, open rules.Egress, err error) {
	addr := to.Addr()
	line := rules.Egress{To: netip.PrefixFrom(addr, addr.BitLen()), Port: to.Port()}
	if invented.Contains(addr) {
		line.To = invented
	}
	opens := func(literal bool) (bool, error) {
		if !literal && (addr.IsLoopback() || addr.IsUnspecified() || addr.IsLinkLocalUnicast()) {
			return false, nil
		}
		fence := s.Fence
		fence.Openings = append(slices.Clone(fence.Openings), firewall.Opening{To: line.To, Port: line.Port, Literal: literal})
		verdict, err := fence.Judge(s.UID, to)
		return verdict.Passes, err
	}
	switch wide, err := opens(false); {
	case err != nil:
		return "", open, err
	case wide:
		return fmt.Sprintf(" (the line `#: egress %s` in the rule file opens it)", line), line, nil
	}
	covers := func(e rules.Egress) bool { return !e.Single() && e.To.Contains(addr) }
	lists := slices.Concat(s.Egress, s.ForAll)
	if i := slices.IndexFunc(lists, covers); i >= 0 {
		return fmt.Sprintf(" (`egress %s` does not lead there: a network opens no address of this VM or of an AppVM)", lists[i]), open, nil
	}
	if single, err := opens(true); err != nil || single {
		return " (it would open this VM or an AppVM, so no line is proposed)", open, err
	}
	for i, b := range s.Barred {
		if i == len(s.Barred)-1 || strings.Contains(says, " "+b.Interface+",") {
			return fmt.Sprintf(" (what AppVMs send there is dropped by %s; no line in a rule file opens it, "+
				"`vifproxyd --egress-interface` does)", b.Rule), open, nil
		}
	}
	return " (no line in a rule file opens it)", open, nil
}

// opens says what opens the fence to an address. An address that is open for all proxies, but not by the daemon's options, is an
// Upstream's.
func (s Subject) opens(to netip.AddrPort, v firewall.Verdict) (says string, lines []control.Line) {
	addr := to.Addr()
	if v.Opening == nil && v.Own {
		return fmt.Sprintf("%s is public, and port %d is opened by", addr, to.Port()), s.linesForPort(to.Port())
	}
	if v.Opening == nil {
		return fmt.Sprintf("%s is public, and %s", addr, v.Why), []control.Line{}
	}
	opening := rules.Egress{To: v.Opening.To, Port: v.Opening.Port}
	for _, e := range s.Egress {
		if v.Own && e.To == opening.To && e.Port == opening.Port {
			return fmt.Sprintf("%s is opened by", addr),
				[]control.Line{{Path: cmp.Or(e.Part, s.RulesPath), Line: e.Line, Text: e.Text}}
		}
	}
	by := "an Upstream in the template `config`"
	if slices.ContainsFunc(s.ForAll, func(e rules.Egress) bool { return e.To == opening.To && e.Port == opening.Port }) {
		by = "--egress-allow"
	}
	return fmt.Sprintf("%s is opened for all by %s: %s", addr, by, opening), []control.Line{}
}
