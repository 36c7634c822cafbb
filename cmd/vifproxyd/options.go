package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"vifproxy/internal/defaults"
	"vifproxy/internal/dom0"
	"vifproxy/internal/proxies"
	"vifproxy/internal/stops"
	"vifproxy/internal/usage"
	"vifproxy/qubes"
	"vifproxy/rules"
)

type options struct {
	rulesDir, template, ceiling, runtimeDir, compatDir, stateDir string
	controlSocket, socketGroup                                   string
	proxyPort                                                    uint16
	listenPorts                                                  proxies.PortRange
	firewall, switchboard, tinyproxy                             string
	requireConfinement                                           bool
	drain                                                        time.Duration
	leave                                                        []string // interfaces
	egress                                                       []rules.Egress
	logFormat                                                    string
	logLevel                                                     slog.Level
	holdOwned, holdUnseen                                        bool
	clean                                                        bool
	qubesDB                                                      string // its socket; "" if lists in dom0 do not count
	qubesFirewall                                                bool   // firewall settings of AppVMs are lists too
}

// firewallFlag is there if dom0 has switched the service on for this VM (qubes-sysinit.sh of qubes-core-agent makes it at the VM's start).
const firewallFlag = "/run/qubes-service/vifproxy-firewall"

// dom0 returns where dom0's lists are; nil if they do not count.
func (o options) dom0() *dom0.Source {
	if o.qubesDB == "" {
		return nil
	}
	return dom0.New(o.qubesDB, o.qubesFirewall)
}

// stops returns the file that keeps what people have stopped.
func (o options) stops() stops.File {
	return stops.File(filepath.Join(o.stateDir, "stopped"))
}

// interfaceName matches names that people give to interfaces, of up to 15 characters (IFNAMSIZ).
var interfaceName = regexp.MustCompile(`^[A-Za-z0-9_.:@-]{1,15}$`)

// wants has what the values of some options should be, for the errors of package flag that do not say it.
var wants = map[string]string{
	"drain":      "a time with its unit, such as 30s, 10m or 1h30m",
	"proxy-port": "a TCP port, such as 8100",
	"log-level":  "debug, info, warn or error",
}

const head = `Usage:
    vifproxyd [OPTION]...

vifproxyd runs one tinyproxy for every connected AppVM that has a list of hosts: a rule file here, or a
list in dom0. Only that VM reaches its proxy, at its gateway. When the VM goes, the proxy goes too. systemd
runs vifproxyd as vifproxyd.service; vifproxyctl(1) and 'journalctl -u vifproxyd' show what it does. On
SIGHUP it reads everything again. On SIGTERM it shuts all VMs out and ends.

Options, with their defaults:
`

func parseOptions(args []string, help io.Writer) (options, error) {
	var o options
	var proxyPort uint
	var listenPorts, onOwned, onUnseen, qubesFirewall string
	var showVersion bool
	f := flag.NewFlagSet("vifproxyd", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.rulesDir, "rules-dir", defaults.RulesDir, "`DIR` with a rule file NAME.IP for each AppVM")
	f.StringVar(&o.template, "template", "", "tinyproxy.conf with {placeholders}, the template of all proxies; without it a built-in one is used (default: `FILE` config in the rule directory)")
	f.Func("ceiling", "`FILE`, written like a rule file: no list of an AppVM admits a host, a port or a network that this one does not, wherever the list is. "+
		"A list that goes beyond it is refused. While FILE is missing or wrong, nobody gets new rules (default: none)", func(path string) error {
		if path == "" {
			return errors.New("want the path of a file")
		}
		o.ceiling = path
		return nil
	})
	f.StringVar(&o.qubesDB, "qubesdb", qubes.Socket, "`SOCKET` of QubesDB, where dom0's lists are, or off: only rule files count. If its directory does not exist, there are no such lists")
	f.StringVar(&qubesFirewall, "qubes-firewall", "auto", "on: firewall settings of AppVMs that name hosts, and drop the rest, are lists too; off: they are not; auto: they "+
		"are if dom0 has switched the service vifproxy-firewall on for this VM")
	f.StringVar(&o.runtimeDir, "runtime-dir", defaults.RuntimeDir, "`DIR` with a directory NAME for each AppVM: its log and its configuration")
	f.StringVar(&o.stateDir, "state-dir", defaults.StateDir, "`DIR` that keeps what `vifproxyctl stop` and `kill-all` have stopped, so that a restart\nof vifproxyd does not undo it, and which lines of lists are used (`vifproxyctl review`)")
	f.StringVar(&o.compatDir, "compat-dir", "", "`DIR`, such as /run/tinyproxy, in which vifproxyd keeps links to these directories, for\nprograms that use the old place; see migration.md (default: none)")
	f.StringVar(&o.controlSocket, "control-socket", defaults.ControlSocket, "unix `SOCKET` on which vifproxyctl reaches the daemon")
	f.StringVar(&o.socketGroup, "socket-group", "", "`GROUP` whose members may use the control socket, in addition to root (default: none)")
	f.UintVar(&proxyPort, "proxy-port", defaults.ProxyPort, "TCP `PORT` at which every AppVM finds its own proxy")
	f.StringVar(&listenPorts, "listen-ports", defaults.ListenPorts, "`FIRST-LAST` TCP ports on which the proxies listen; no other program may use them")
	f.StringVar(&o.firewall, "firewall", "auto", "`KIND` of firewall: auto and iptables keep a rule in the chain INPUT of iptables, if there is one; nftables never does")
	f.StringVar(&o.switchboard, "switchboard", "auto", "auto: have the kernel hand connections to the proxies' sockets where it can, without NAT; off: always use NAT")
	f.StringVar(&o.tinyproxy, "tinyproxy", defaults.Tinyproxy, "`PATH` of the tinyproxy program")
	f.BoolVar(&o.requireConfinement, "require-confinement", false, "do not start on a machine that cannot fully confine proxies")
	f.DurationVar(&o.drain, "drain", time.Hour, "`TIME` for which connections may continue after a change of rules that took nothing away")
	f.Func("egress-allow", "`NETWORKS` that all proxies may connect to although they are private, or by another port than "+
		"80 and 443:\nCIDR[:PORT],... such as 192.168.1.5/32:8443; for one AppVM write '#: egress CIDR[:PORT]'\n"+
		"into its rule file. A network never leads to this VM or to AppVMs (default: none)", func(list string) error {
		egress, err := rules.ParseEgress(list)
		o.egress = append(o.egress, egress...)
		return err
	})
	f.Func("egress-interface", "`NAMES` of the only interfaces, A,B,..., by which proxies and their DNS queries may leave\n"+
		"(default: all interfaces except those by which the firewall forwards nothing of AppVMs)", func(list string) error {
		for _, name := range strings.Split(list, ",") {
			if !interfaceName.MatchString(name) {
				return fmt.Errorf("%.40q is not the name of an interface; write names like eth0,wg0", name)
			}
			o.leave = append(o.leave, name)
		}
		return nil
	})
	f.StringVar(&onOwned, "on-owned", "log", "log: tell of a proxy that asks for names as no tinyproxy does, because somebody has taken it over;\n"+
		"hold: stop its AppVM as well, until 'vifproxyctl start'")
	f.StringVar(&onUnseen, "on-unseen", "log", "log: tell of an AppVM with an address that nobody has had for 30 days, because it may have the list of another one;\n"+
		"hold: stop it as well, until 'vifproxyctl start'")
	f.StringVar(&o.logFormat, "log-format", "auto", "`FORMAT` of messages: journal, text, json, or auto: journal under systemd")
	f.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "lowest `LEVEL` to log: debug, info, warn, error")
	f.BoolVar(&o.clean, "clean", false, "remove what a crashed vifproxyd has left (rules, proxies, files), then end")
	f.BoolVar(&showVersion, "version", false, "print the version, then end")
	f.Usage = func() {} // package flag would print it before each error, and systemd tries again each second

	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		printUsage(f, help)
		return o, err
	} else if err != nil {
		return o, usage.Error(f, args, err, usage.Names(f), wants)
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; see `vifproxyd --help`", f.Arg(0))
	}
	if showVersion {
		fmt.Fprintln(help, "vifproxyd", defaults.Version())
		return o, flag.ErrHelp
	}
	o.template = cmp.Or(o.template, filepath.Join(o.rulesDir, defaults.TemplateName))
	if o.qubesDB == "off" {
		o.qubesDB = ""
	}
	if o.drain < 0 {
		return o, fmt.Errorf("--drain=%v: want 0s or more", o.drain)
	}
	if proxyPort < 1 || proxyPort > 65535 {
		return o, fmt.Errorf("--proxy-port=%d: a TCP port is 1 to 65535", proxyPort)
	}
	o.proxyPort = uint16(proxyPort)
	p := &o.listenPorts
	first, last, _ := strings.Cut(listenPorts, "-")
	from, err := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	p.First, p.Last = uint16(from), uint16(to)
	if err != nil || err2 != nil || p.First < 1 || p.First > p.Last {
		return o, fmt.Errorf("--listen-ports=%s: want FIRST-LAST, such as 61000-64999", listenPorts)
	}
	if p.First <= o.proxyPort && o.proxyPort <= p.Last {
		return o, fmt.Errorf("--proxy-port=%d is within --listen-ports=%s", proxyPort, listenPorts)
	}
	switch o.firewall {
	case "auto", "nftables", "iptables":
	default:
		return o, fmt.Errorf("--firewall=%s: want auto, nftables or iptables", o.firewall)
	}
	switch o.switchboard {
	case "auto", "off":
	default:
		return o, fmt.Errorf("--switchboard=%s: want auto or off", o.switchboard)
	}
	switch onOwned {
	case "log", "hold":
		o.holdOwned = onOwned == "hold"
	default:
		return o, fmt.Errorf("--on-owned=%s: want log or hold", onOwned)
	}
	switch onUnseen {
	case "log", "hold":
		o.holdUnseen = onUnseen == "hold"
	default:
		return o, fmt.Errorf("--on-unseen=%s: want log or hold", onUnseen)
	}
	switch qubesFirewall {
	case "on", "off":
		o.qubesFirewall = qubesFirewall == "on"
	case "auto":
		_, err := os.Stat(firewallFlag)
		o.qubesFirewall = err == nil
	default:
		return o, fmt.Errorf("--qubes-firewall=%s: want auto, on or off", qubesFirewall)
	}
	switch o.logFormat {
	case "auto", "journal", "text", "json":
	default:
		return o, fmt.Errorf("--log-format=%s: want auto, journal, text or json", o.logFormat)
	}
	return o, nil
}

func printUsage(f *flag.FlagSet, w io.Writer) {
	fmt.Fprint(w, usage.Fill(head))
	f.VisitAll(func(f *flag.Flag) {
		value, text := flag.UnquoteUsage(f)
		line := "--" + f.Name
		switch {
		case f.DefValue != "" && f.DefValue != "false":
			line += "=" + f.DefValue
		case value != "":
			line += "=" + value
		}
		const indent = 8
		fmt.Fprintf(w, "    %s\n%s", line, usage.Wrap(strings.Repeat(" ", indent)+strings.ReplaceAll(text, "\n", " "), usage.Width, indent))
	})
}
