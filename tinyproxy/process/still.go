package process

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"vifproxy/internal/sockdiag"
)

// A proxy stands still if a client has waited for stillTime, at stillLooks looks at least, to be accepted, and the proxy has accepted
// nobody. Somebody has stopped it, as by SIGSTOP or by freezing its cgroup, or it waits for what does not come.
const (
	stillTime  = time.Minute
	stillLooks = 3 // a whole machine may have stood still
)

// still is what looks at a proxy have in common.
type still struct {
	waiting []netip.AddrPort // at all looks since then
	since   time.Time
	looks   int
}

// note takes in which clients wait while none is accepted, and reports whether the proxy stands still.
func (s *still) note(waiting []netip.AddrPort, now time.Time) bool {
	s.waiting = slices.DeleteFunc(s.waiting, func(c netip.AddrPort) bool { return !slices.Contains(waiting, c) })
	if len(s.waiting) == 0 {
		*s = still{waiting: waiting, since: now}
	}
	s.looks++
	return len(waiting) > 0 && s.looks >= stillLooks && now.Sub(s.since) >= stillTime
}

// standsStill returns an error if the proxy does. If that cannot be known, it does not.
func (p *Proxy) standsStill(listener sockdiag.Socket) *Error {
	var waiting []netip.AddrPort
	if accepted := false; listener.Waiting > 0 {
		if all, err := p.clients(func(s sockdiag.Socket) bool { accepted = accepted || s.Accepted; return true }); err == nil && !accepted {
			waiting = all
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.still.note(waiting, time.Now()) {
		return nil
	}
	return &Error{Text: fmt.Sprintf("tinyproxy (pid %d) accepts nobody, and clients have waited for %v", p.PID, stillTime)}
}
