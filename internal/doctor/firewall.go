package doctor

import (
	"context"
	"os"
	"strings"

	"vifproxy/firewall/backend"
)

// firewall looks at the rules of vifproxyd.
func (d *doctor) firewall(ctx context.Context) {
	const check = "firewall"
	kind, why, err := backend.Detect(ctx)
	if err != nil {
		remedy := ""
		if os.Geteuid() != 0 {
			remedy = "run doctor as root"
		}
		d.report(check, Wrong, remedy, "%v", err)
		return
	}
	if d.status != nil {
		if d.status.Backend != kind {
			d.report(check, Note, "restart vifproxyd, without --firewall", "vifproxyd uses %s, but %s fits: %s",
				d.status.Backend, kind, why)
		}
		kind = d.status.Backend
	}
	found, err := backend.Inspect(ctx, kind)
	switch {
	case err != nil:
		d.report(check, Wrong, "", "%s: %v", kind, err)
	case d.status == nil && len(found.Present) == 0:
		d.report(check, OK, "", "%s fits: %s", kind, why)
	case d.status == nil:
		d.report(check, Note, "start vifproxyd, which takes them over", "rules that a vifproxyd has left: %s",
			strings.Join(found.Present, ", "))
	case len(found.Missing) > 0:
		d.report(check, Wrong, "vifproxyctl update, and find out which program takes them away",
			"%s: missing is %s", kind, strings.Join(found.Missing, ", "))
	default:
		d.report(check, OK, "", "%s: everything is in place", kind)
	}
}
