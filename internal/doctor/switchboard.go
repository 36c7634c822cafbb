package doctor

import (
	"slices"
	"strings"

	"vifproxy/control"
)

// switchboard says how connections get to the proxies.
func (d *doctor) switchboard() {
	const check = "switchboard"
	if d.status == nil {
		return
	}
	shut := slices.ContainsFunc(d.status.Problems, func(p string) bool { return strings.HasPrefix(p, control.WayToProxies) })
	switch s := d.status.Setup.Switchboard; {
	case s.Used && shut: // which is among the daemon's problems
	case s.Used:
		d.report(check, OK, "", "the kernel hands connections to the proxies, without NAT")
	case s.Loaded:
		d.report(check, OK, "", "NAT leads connections to the proxies: %s", s.Why)
	case s.Why != "": // a daemon of an older version says nothing
		d.report(check, Note, "", "NAT leads connections to the proxies, and the first HTTPS page of a connection takes 40 ms longer: %s", s.Why)
	}
}
