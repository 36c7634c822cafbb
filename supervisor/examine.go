package supervisor

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

const (
	// examineTimeout is how long it may take to find out what became of a connection.
	examineTimeout = 2 * time.Second
	// examinedMax is how many connections are looked into at once, of all AppVMs, and examinedEach of one.
	examinedMax  = 16
	examinedEach = 4
	// quick is how long a connection takes to be refused at most: within it comes a reset, and the word of the kernel that
	// nothing leads there. A host that is asked for by ARP and silent takes 3 s.
	quick = 2 * time.Second
)

// examine finds out what became of a connection that a proxy could not make, and then has it recorded. It reports whether
// it does. It may be called from anywhere, and does not wait: the loop hands on the fence, a goroutine does the rest.
func (s *Supervisor) examine(d events.Denial) bool {
	s.examined.Lock()
	defer s.examined.Unlock()
	if s.examined.all >= examinedMax || s.examined.by[d.IP] >= examinedEach {
		return false
	}
	s.examined.all++
	s.examined.by[d.IP]++
	s.post(func(l *loop) {
		fence, life := l.fenced, l.life
		l.running.Go(func() {
			ctx, cancel := context.WithTimeout(life, examineTimeout)
			defer cancel()
			s.Events.Record(s.lookInto(ctx, fence, d))
			s.examined.Lock()
			defer s.examined.Unlock()
			s.examined.all--
			if s.examined.by[d.IP]--; s.examined.by[d.IP] == 0 {
				delete(s.examined.by, d.IP)
			}
		})
	})
	return true
}

// lookInto says what became of a connection. tinyproxy does not: its line is the same whatever the cause (opensock in
// src/sock.c of 1.11).
func (s *Supervisor) lookInto(ctx context.Context, fence firewall.Fence, d events.Denial) events.Denial {
	d.What, d.Why = s.outcome(ctx, fence, d)
	if d.Upstream {
		d.Why = "Upstream of the template: " + d.Why
	}
	return d
}

func (s *Supervisor) outcome(ctx context.Context, fence firewall.Fence, d events.Denial) (what, why string) {
	if d.Waiting {
		tries, err := s.Attempts(d.UID, d.Port)
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
		if len(to) > 0 {
			why = fmt.Sprintf("no answer from %s for %.0f s", strings.Join(to[:min(len(to), 3)], ", "), d.Took.Seconds())
		}
		return events.NoAnswer, why
	}
	addrs, err := s.addressesOf(ctx, d.Host)
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
