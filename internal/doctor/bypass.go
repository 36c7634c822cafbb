package doctor

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// bypasses looks for what the rules in dom0 let AppVMs do without their proxies.
func (d *doctor) bypasses(ctx context.Context) {
	const check = "bypass"
	if _, err := exec.LookPath("qubesdb-multiread"); err != nil {
		d.report(check, OK, "", "there is no QubesDB: other rules of this firewall are not looked at")
		return
	}
	var unknown, open, asking, pinging, closed []string
	for _, vm := range d.links {
		name, ok := d.listed(vm)
		if !ok {
			continue
		}
		who := fmt.Sprintf("%s (%s)", name, vm.Addr)
		text := run(ctx, "qubesdb-multiread", "/qubes-firewall/"+vm.Addr.String()+"/")
		rules, ok := parseQubesRules(text)
		if !ok {
			unknown = append(unknown, who)
			continue
		}
		before := len(open) + len(asking) + len(pinging)
		if rules.permits(tcpAnywhere) {
			open = append(open, who)
		}
		if rules.permits(dns) {
			asking = append(asking, who)
		}
		if rules.permits(icmp) {
			pinging = append(pinging, who)
		}
		if len(open)+len(asking)+len(pinging) == before {
			closed = append(closed, who)
		}
	}
	of := func(who []string) string { // the one it is about
		if len(who) == 1 {
			name, _, _ := strings.Cut(who[0], " ")
			return name
		}
		return "NAME"
	}
	d.reportEach(check, Note, "", "%s: QubesDB has no rules for it", "QubesDB has no rules for %d AppVMs: %s", unknown)
	d.reportEach(check, Wrong, "in dom0 find the rule with `qvm-firewall "+of(open)+" list` and remove it with "+
		"`qvm-firewall "+of(open)+" del --rule-no N`", "%s reaches hosts without its proxy",
		"%d AppVMs reach hosts without their proxies: %s", open)
	d.reportEach(check, Wrong, "in dom0: qvm-firewall "+of(asking)+" del accept specialtarget=dns",
		"%s may ask name servers, and so send data to anybody; its proxy does that for it",
		"%d AppVMs may ask name servers, and so send data to anybody; their proxies do that for them: %s", asking)
	d.reportEach(check, Wrong, "in dom0: qvm-firewall "+of(pinging)+" del accept proto=icmp",
		"%s may send ICMP, and so data, to anybody", "%d AppVMs may send ICMP, and so data, to anybody: %s", pinging)
	d.reportEach(check, OK, "", "%s reaches nothing else by DNS, ICMP or general rules",
		"%d AppVMs reach nothing else by DNS, ICMP or general rules: %s", closed)
}
