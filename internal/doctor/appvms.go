package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"vifproxy/control"
	"vifproxy/netwatch"
)

// appVMs compares the connected AppVMs with the rule files. It reports whether it knows which AppVMs are connected.
func (d *doctor) appVMs() bool {
	const check = "AppVMs"
	var err error
	if d.links, err = netwatch.Read(); err != nil {
		d.report(check, Wrong, "", "cannot find out who is connected: %v", err)
		return false
	}
	served := 0
	var listless, disposables []string
	for _, vm := range d.links {
		switch _, ok := d.listed(vm); {
		case ok:
			served++
		case ofDisposables.Contains(vm.Addr):
			disposables = append(disposables, onVifs(vm))
		default:
			listless = append(listless, onVifs(vm))
		}
	}
	d.reportEach(check, Note, "for each that is to have a proxy: vifproxyctl allow NAME.IP HOST makes its first rule file",
		"%s has no rule file, and so no proxy", "%d AppVMs have no rule file, and so no proxy: %s", listless)
	d.reportEach(check, Note, "none if no disposable needs a proxy; one that does is to be a named disposable, which keeps its address",
		"%s has no rule file, and so no proxy; by its address it is a disposable, and the next one has another address",
		"%d disposables have no rule file, and so no proxy; the next ones have other addresses: %s", disposables)
	d.sharedAddresses()
	d.reportEach(check, Note, "compare with `qvm-ls --network` in dom0 which address they have",
		"%s was not connected since vifproxyd started, "+d.setup.Started.Local().Format("2006-01-02 15:04:05"),
		"%d AppVMs with a rule file were not connected since vifproxyd started: %s", d.unseen())
	d.report(check, OK, "", "%d connected, %d of them with a rule file", len(d.links), served)
	return true
}

// listed returns the name of an AppVM that has a list, in a file or elsewhere.
func (d *doctor) listed(vm netwatch.AppVM) (name string, ok bool) {
	if file, ok := d.rules.Of(vm.Addr); ok {
		return file.Name, true
	}
	if d.status != nil {
		for _, row := range d.status.VMs {
			if row.IP == vm.Addr.String() && row.Origin != "" && row.Origin != control.InFile { // files were read here
				return row.Name, true
			}
		}
	}
	return "", false
}

// unseen returns the VMs with a rule file that the daemon has never seen.
func (d *doctor) unseen() (vms []string) {
	if d.status == nil {
		return nil
	}
	for _, vm := range d.status.VMs {
		if vm.Seen.IsZero() {
			vms = append(vms, fmt.Sprintf("%s (%s)", vm.Name, vm.IP))
		}
	}
	return vms
}

// ofDisposables is the network from which Qubes gives disposables their addresses, by their number (get_ip_for_dispvm in
// qubes-core-admin's qubes/vm/mix/net.py of R4.1 to R4.3).
var ofDisposables = netip.MustParsePrefix("10.138.0.0/16")

func onVifs(vm netwatch.AppVM) string {
	return fmt.Sprintf("%s on %s", vm.Addr, strings.Join(vm.Vifs, ", "))
}

// sharedAddresses names addresses behind more than one vif. An HVM has two vifs with one address, its own and its stub domain's. The
// stub domain's number follows its own, because libxl makes it right after. Two qubes of one address cannot be told apart.
func (d *doctor) sharedAddresses() {
	var perhaps, certain []string
	for _, vm := range d.links {
		switch {
		case len(vm.Vifs) == 1:
		case len(vm.Vifs) == 2 && domid(vm.Vifs[1])-domid(vm.Vifs[0]) == 1:
			perhaps = append(perhaps, onVifs(vm))
		default:
			certain = append(certain, onVifs(vm))
		}
	}
	const remedy = "find in dom0, by `qvm-ls --network`, which qubes have the address, and give one another: qvm-prefs NAME ip ADDRESS"
	d.reportEach("AppVMs", Wrong, remedy, "one address on two qubes, which have one list and one proxy: %s",
		"%d addresses are on two qubes each, which have one list and one proxy: %s", certain)
	d.reportEach("AppVMs", Note, "none if it is an HVM; else "+remedy,
		"%s: an HVM with its stub domain, or two qubes of one address, which have one list and one proxy",
		"%d addresses are on two vifs: HVMs with their stub domains, or two qubes of one address: %s", perhaps)
}

func domid(vif string) int {
	id, _, _ := netwatch.ParseVif(vif)
	return id
}

// netvm looks for signs that this VM is not the netvm of the AppVMs that have rule files. Behind another firewall VM all of them come
// with its address, on its vif, and cannot be told apart.
func (d *doctor) netvm(ctx context.Context) {
	const check = "netvm"
	if len(d.links) == 0 || len(d.rules.Files) == 0 {
		return
	}
	for _, vm := range d.links {
		if _, ok := d.listed(vm); ok {
			d.report(check, OK, "", "AppVMs with rule files are connected to this VM itself")
			return
		}
	}
	var others []string
	for _, vm := range d.links {
		others = append(others, fmt.Sprintf("%s (%s)", vm.Addr, strings.Join(vm.Vifs, ", ")))
	}
	remedy := "run vifproxyd in the VM that is their netvm, as `qvm-ls --network` in dom0 shows it"
	// Only a VM that has a netvm itself has a gateway in QubesDB: this one drives the network card.
	if qubesdb(ctx, "/name") != "" && qubesdb(ctx, "/qubes-gateway") == "" {
		d.report(check, Wrong, remedy, "no AppVM with a rule file is connected, and this VM has no netvm "+
			"itself: are they behind %s, perhaps another firewall VM?", strings.Join(others, ", "))
		return
	}
	d.report(check, Note, remedy, "no AppVM with a rule file is connected, only %s: "+
		"should that be another firewall VM, those behind it cannot be told apart here", strings.Join(others, ", "))
}
