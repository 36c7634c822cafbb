package explain

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/events"
)

// quick is the longest time in which a connection is refused: by a reset, or by the kernel if no route leads there. A host that
// does not answer ARP takes 3 s.
const quick = 2 * time.Second

// Outcome returns a denial with what became of the connection. tinyproxy does not say that: its line is the same whatever the
// cause (opensock in src/sock.c of 1.11).
func (x Explainer) Outcome(ctx context.Context, fence firewall.Fence, d events.Denial) events.Denial {
	d.What, d.Why = x.outcome(ctx, fence, d)
	if d.Upstream {
		d.Why = "Upstream of the template: " + d.Why
	}
	return d
}

func (x Explainer) outcome(ctx context.Context, fence firewall.Fence, d events.Denial) (what, why string) {
	if x.Beyond != nil {
		if beyond, err := x.Beyond(d.UID); err == nil && beyond {
			return events.TooMany, "its proxy makes too many connections at once, or holds as many as one AppVM may"
		}
	}
	if d.Waiting {
		tries, err := x.Attempts(d.UID, d.Port)
		if i := slices.IndexFunc(tries, func(a firewall.Attempt) bool { return !a.Left }); err == nil && i >= 0 {
			return events.OtherTable, fmt.Sprintf("what the proxy sends to %s does not leave this VM: rules of another "+
				"program drop it", tries[i].To)
		}
		var to []string
		for _, a := range tries {
			if text := a.To.String(); !slices.Contains(to, text) {
				to = append(to, text)
			}
		}
		slices.Sort(to)
		why = fmt.Sprintf("no answer for %.0f s", d.Took.Seconds())
		if _, notAddr := netip.ParseAddr(d.Host); len(to) > 0 {
			why = fmt.Sprintf("no answer from %s for %.0f s", strings.Join(to[:min(len(to), 3)], ", "), d.Took.Seconds())
		} else if err == nil && notAddr != nil {
			why += ", from a name server as it seems: its proxy connects to nobody"
		}
		return events.NoAnswer, why
	}
	addrs, err := x.addressesOf(ctx, d.Host)
	if err != nil {
		return "", "no connection, and its addresses are not known now"
	}
	var refused []string
	var passed, routed []netip.AddrPort
	for _, addr := range addrs {
		to := netip.AddrPortFrom(addr, d.Port)
		verdict, err := fence.Judge(d.UID, to)
		switch {
		case err != nil:
		case !verdict.Passes:
			refused = append(refused, fmt.Sprintf("%s: %s", addr, verdict.Why))
		default:
			passed = append(passed, to)
			if firewall.HasRoute(addr) {
				routed = append(routed, to)
			}
		}
	}
	switch {
	case len(passed) == 0 && len(refused) > 0:
		return events.FenceRefused, "the fence lets no proxy connect to " + strings.Join(refused[:min(len(refused), 3)], "; ")
	case len(routed) == 0 && len(passed) > 0:
		return events.NoRoute, fmt.Sprintf("no route leads to %s", passed[0].Addr())
	case d.Took > quick:
		return events.NoAnswer, fmt.Sprintf("no answer for %.0f s", d.Took.Seconds())
	}
	return events.HostRefused, fmt.Sprintf("%s refuses the connection, or a rule on the way does", d.Host)
}
