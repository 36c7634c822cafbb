package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// root is where the files of the system are. Tests move it.
var root = ""

const (
	programBound = 10 * time.Second // of a program that doctor runs
	outputBound  = time.Second      // of what it has left behind that holds its output open
)

// output runs a program and returns what it prints, "" if it fails or is not there.
func output(ctx context.Context, name string, args ...string) (text string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, programBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = outputBound
	out, err := cmd.Output()
	if err != nil {
		return "", false
	}
	return string(out), true
}

// qubesdb reads one value of QubesDB, "" where there is none.
func qubesdb(ctx context.Context, path string) string {
	value, _ := output(ctx, "qubesdb-read", path)
	return strings.TrimSuffix(value, "\n")
}

func exists(path string) bool {
	_, err := os.Stat(root + path)
	return err == nil
}

// service looks whether vifproxyd is started at boot: by the package where dom0 has turned the service on for
// this VM, or by what install-rw.sh has put below /rw.
func (d *doctor) service() {
	const check, flag, start = "service", "/run/qubes-service/vifproxy", "/rw/config/vifproxy/start"
	const custom, hook = "/run/qubes-service/custom-persist", "/rw/config/rc.local"
	switch {
	case !exists("/usr/share/qubes/marker-vm"):
		d.tell(check, levelOK, "", "this is no VM of Qubes OS: no service has to be turned on in dom0")
	case exists(start) && exists(custom):
		d.tell(check, levelWrong, "install the package in the template instead",
			"installed below /rw, but with custom-persist nothing there is run (%s)", custom)
	case exists(start) && !runs(hook, start):
		d.tell(check, levelWrong, "run install-rw.sh again",
			"installed below /rw, but %s does not run %s", hook, start)
	case exists(start):
		d.tell(check, levelOK, "", "installed below /rw and started by %s", hook)
	case exists(flag):
		d.tell(check, levelOK, "", "turned on in dom0 (%s)", flag)
	default:
		d.tell(check, levelWrong, "in dom0: qvm-service "+d.vmName()+" vifproxy on, and restart this VM",
			"not turned on for this VM in dom0 (there is no %s)", flag)
	}
}

// runs tells whether a script is run that has a line with this command.
func runs(script, command string) bool {
	text, err := os.ReadFile(root + script)
	info, err2 := os.Stat(root + script)
	return err == nil && err2 == nil && info.Mode()&0o111 != 0 &&
		strings.Contains("\n"+string(text), "\n"+command+" ")
}

func (d *doctor) vmName() string {
	if name := qubesdb(d.ctx, "/name"); name != "" {
		return name
	}
	return "VM"
}

// persistence looks whether the rule directory will be there after the next start of this VM.
func (d *doctor) persistence() {
	const check = "persistence"
	dir := d.setup.RulesDir
	if !exists("/usr/share/qubes/marker-vm") && qubesdb(d.ctx, persistenceKey) == "" {
		return
	}
	kept := keeps(d.ctx, dir)
	level := levelOK
	switch {
	case kept.unknown, kept.disposable:
		level = levelNote
	case kept.lost:
		level = levelWrong
	}
	d.tell(check, level, kept.remedy, "%s", kept.text)
}

// persistenceKey of QubesDB says what of a VM outlives its restart: "full", "rw-only" or, of a disposable, "none"
// (create_qdb_entries in qubes-core-admin's qubes/vm/qubesvm.py and dispvm.py).
const persistenceKey = "/qubes-vm-persistence"

// kept is what becomes of a directory when this VM is restarted.
type kept struct {
	lost, disposable, unknown bool
	text, remedy              string
}

func keeps(ctx context.Context, dir string) kept {
	switch kind := qubesdb(ctx, persistenceKey); kind {
	case "":
		return kept{unknown: true, text: "QubesDB does not say what of this VM is kept"}
	case "full":
		return kept{text: "all files of this VM are kept"}
	case "rw-only":
		if !onRW(dir) {
			return kept{lost: true, text: dir + " is lost when this VM is restarted: only /rw is kept",
				remedy: "move it below /rw and name it to vifproxyd with --rules-dir"}
		}
		return kept{text: dir + " is on /rw, which is kept"}
	default:
		template := cmp.Or(qubesdb(ctx, "/qubes-base-template"), "the template that it is made of")
		return kept{lost: true, disposable: true, text: "this VM is a disposable and keeps no files, also not " + dir,
			remedy: "write the same into " + dir + " of its disposable template " + template + ", and restart this VM"}
	}
}

// toldLost warns where what was written to a file is lost when this VM is restarted: until then, it is in force.
func (c *call) toldLost(path string) {
	if kept := keeps(context.Background(), filepath.Dir(path)); kept.lost {
		c.warn("until this VM is restarted: %s; %s", kept.text, kept.remedy)
	}
}

// onRW tells whether a directory is kept by a VM whose root file system is not: on /rw, or bound to something
// there (bind-dirs).
func onRW(dir string) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	if strings.HasPrefix(dir, root+"/rw/") {
		return true
	}
	var there, rw, system syscall.Stat_t
	return syscall.Stat(dir, &there) == nil && syscall.Stat(root+"/rw", &rw) == nil &&
		syscall.Stat(root+"/", &system) == nil && there.Dev == rw.Dev && rw.Dev != system.Dev
}

// netvm looks for signs that this is not the netvm of the AppVMs that have rule files. Behind another
// firewall VM all of them would come with that one's address, on that one's vif, and none can be told from
// another.
func (d *doctor) netvm() {
	const check = "netvm"
	if len(d.links) == 0 || len(d.rules.Files) == 0 {
		return
	}
	for _, vm := range d.links {
		if _, ok := d.ruleFile(vm); ok {
			d.tell(check, levelOK, "", "AppVMs with rule files are connected to this VM itself")
			return
		}
	}
	var others []string
	for _, vm := range d.links {
		others = append(others, fmt.Sprintf("%s (%s)", vm.Addr, strings.Join(vm.Vifs, ", ")))
	}
	remedy := "run vifproxyd in the VM that is their netvm, as `qvm-ls --network` in dom0 shows it"
	// Only a VM that has a netvm itself has a gateway in QubesDB: this one drives the network card.
	if qubesdb(d.ctx, "/name") != "" && qubesdb(d.ctx, "/qubes-gateway") == "" {
		d.tell(check, levelWrong, remedy, "no AppVM with a rule file is connected, and this VM has no netvm "+
			"itself: are they behind %s, perhaps another firewall VM?", strings.Join(others, ", "))
		return
	}
	d.tell(check, levelNote, remedy, "no AppVM with a rule file is connected, only %s: "+
		"should that be another firewall VM, those behind it cannot be told apart here", strings.Join(others, ", "))
}

// bypasses looks for what the rules in dom0 let AppVMs do without asking their proxies.
func (d *doctor) bypasses() {
	const check = "bypass"
	if _, err := exec.LookPath("qubesdb-multiread"); err != nil {
		d.tell(check, levelOK, "", "there is no QubesDB: other rules of this firewall are not looked at")
		return
	}
	var unknown, open, asking, pinging, closed []string
	for _, vm := range d.links {
		file, ok := d.ruleFile(vm)
		if !ok {
			continue
		}
		who := fmt.Sprintf("%s (%s)", file.Name, file.Addr)
		text, _ := output(d.ctx, "qubesdb-multiread", "/qubes-firewall/"+vm.Addr.String()+"/")
		rules, ok := parseEgress(text)
		if !ok {
			unknown = append(unknown, who)
			continue
		}
		before := len(open) + len(asking) + len(pinging)
		if rules.open(tcpAnywhere) {
			open = append(open, who)
		}
		if rules.open(dns) {
			asking = append(asking, who)
		}
		if rules.open(icmp) {
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
	d.tellOf(check, levelNote, "", "%s: QubesDB has no rules for it", "QubesDB has no rules for %d AppVMs: %s", unknown)
	d.tellOf(check, levelWrong, "in dom0 find the rule with `qvm-firewall "+of(open)+" list` and remove it with "+
		"`qvm-firewall "+of(open)+" del --rule-no N`", "%s reaches hosts without its proxy",
		"%d AppVMs reach hosts without their proxies: %s", open)
	d.tellOf(check, levelWrong, "in dom0: qvm-firewall "+of(asking)+" del accept specialtarget=dns",
		"%s may ask name servers, and so send data to anybody; its proxy does that for it",
		"%d AppVMs may ask name servers, and so send data to anybody; their proxies do that for them: %s", asking)
	d.tellOf(check, levelWrong, "in dom0: qvm-firewall "+of(pinging)+" del accept proto=icmp",
		"%s may send ICMP, and so data, to anybody", "%d AppVMs may send ICMP, and so data, to anybody: %s", pinging)
	d.tellOf(check, levelOK, "", "%s reaches nothing else by DNS, ICMP or general rules",
		"%d AppVMs reach nothing else by DNS, ICMP or general rules: %s", closed)
}

// egress is the rules of one AppVM as dom0 gives them to its netvm, in their order; the policy is the last
// one. See https://www.qubes-os.org/doc/vm-interface/#firewall-rules-in-4x.
type egress []map[string]string

func parseEgress(text string) (rules egress, ok bool) {
	var policy string
	lines := strings.Split(text, "\n")
	slices.Sort(lines) // qubes-firewall sorts them too
	for _, line := range lines {
		key, value, found := strings.Cut(line, " = ")
		if key == "policy" {
			policy = value
		}
		if n, err := strconv.Atoi(key); !found || err != nil || n < 0 {
			continue
		}
		rule := map[string]string{}
		for _, field := range strings.Fields(value) {
			name, value, _ := strings.Cut(field, "=")
			rule[name] = value
		}
		rules = append(rules, rule)
	}
	return append(rules, map[string]string{"action": policy}), policy != ""
}

// traffic tells whether a rule is about some of it, and whether it is about all of it.
type traffic func(rule map[string]string) (some, all bool)

// open tells whether some of the traffic passes: the first rule that is about a packet decides.
func (rules egress) open(t traffic) bool {
	for _, rule := range rules {
		some, all := t(rule)
		if some && rule["action"] == "accept" {
			return true
		}
		if all {
			return false
		}
	}
	return false
}

func tcpAnywhere(rule map[string]string) (some, all bool) {
	some = anywhere(rule) && is(rule["proto"], "", "tcp") && rule["specialtarget"] == ""
	return some, some && rule["dstports"] == ""
}

func dns(rule map[string]string) (some, all bool) {
	some = is(rule["proto"], "", "udp", "tcp") && is(rule["specialtarget"], "", "dns") && anywhere(rule) &&
		hasPort(rule["dstports"], 53)
	return some, some && rule["proto"] == ""
}

func icmp(rule map[string]string) (some, all bool) {
	some = anywhere(rule) && is(rule["proto"], "", "icmp") && rule["specialtarget"] == ""
	return some, some && rule["icmptype"] == ""
}

func is(value string, values ...string) bool { return slices.Contains(values, value) }

// anywhere tells whether a rule is about all destinations, or so many that no site was meant.
func anywhere(rule map[string]string) bool {
	if rule["dsthost"] != "" || rule["dst6"] != "" {
		return false
	}
	const site = 8 // prefixes shorter than this are no site's
	prefix, err := netip.ParsePrefix(rule["dst4"])
	return rule["dst4"] == "" || err == nil && prefix.Bits() < site
}

// hasPort tells whether a range such as 53-53 contains a port; all of them if there is none.
func hasPort(ports string, port int) bool {
	if ports == "" {
		return true
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	low, err1 := strconv.Atoi(first)
	high, err2 := strconv.Atoi(last)
	return err1 == nil && err2 == nil && low <= port && port <= high
}
