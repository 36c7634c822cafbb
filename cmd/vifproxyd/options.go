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
	"slices"
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
	onOwned, onUnseen                                            string // log or hold
	requireConfinement                                           bool
	drain                                                        time.Duration
	leave                                                        []string // interfaces
	egress                                                       []rules.Egress
	logFormat                                                    string
	logLevel                                                     slog.Level
	clean                                                        bool
	qubesDB                                                      string // its socket, or off: lists in dom0 do not count
	qubesFirewall                                                string // auto, on or off: firewall settings of AppVMs are lists too
}

// firewallFlag is there if dom0 has switched the service on for this VM (qubes-sysinit.sh of qubes-core-agent makes it at the VM's start).
const firewallFlag = "/run/qubes-service/vifproxy-firewall"

// dom0Socket returns the socket of QubesDB, where dom0's lists are; "" if they do not count.
func (o options) dom0Socket() string {
	if o.qubesDB == "off" {
		return ""
	}
	return o.qubesDB
}

// dom0 returns where dom0's lists are; nil if they do not count.
func (o options) dom0() *dom0.Source {
	if o.dom0Socket() == "" {
		return nil
	}
	settings := o.qubesFirewall == "on"
	if o.qubesFirewall == "auto" {
		_, err := os.Stat(firewallFlag)
		settings = err == nil
	}
	return dom0.New(o.dom0Socket(), settings)
}

// stops returns the file that keeps what people have stopped.
func (o options) stops() stops.File {
	return stops.File(filepath.Join(o.stateDir, "stopped"))
}

// interfaceName matches names that people give to interfaces, of up to 15 characters (IFNAMSIZ).
var interfaceName = regexp.MustCompile(`^[A-Za-z0-9_.:@-]{1,15}$`)

// wants has what the values of some options should be, for the errors of package flag that do not say it.
var wants = map[string]string{
	"drain":     "a time with its unit, such as 30s, 10m or 1h30m",
	"log-level": "debug, info, warn or error",
}

// A choice is the value of an option that is one of a few words.
type choice struct {
	to    *string
	words []string
}

func (c choice) String() string {
	if c.to == nil { // package flag makes one
		return ""
	}
	return *c.to
}

func (c choice) Set(word string) error {
	if last := len(c.words) - 1; !slices.Contains(c.words, word) {
		return fmt.Errorf("want %s or %s", strings.Join(c.words[:last], ", "), c.words[last])
	}
	*c.to = word
	return nil
}

// A port is the value of an option that is a TCP port.
type port uint16

func (p *port) String() string { return strconv.Itoa(int(*p)) }

func (p *port) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return errors.New("want a TCP port, 1 to 65535")
	}
	*p = port(n)
	return nil
}

// ports is the value of an option that is a range of TCP ports.
type ports proxies.PortRange

func (p *ports) String() string { return fmt.Sprintf("%d-%d", p.First, p.Last) }

func (p *ports) Set(text string) error {
	first, last, _ := strings.Cut(text, "-")
	from, err := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	if err != nil || err2 != nil || from < 1 || from > to {
		return errors.New("want FIRST-LAST, such as 61000-64999")
	}
	*p = ports{First: uint16(from), Last: uint16(to)}
	return nil
}

const head = `Usage:
    vifproxyd [OPTION]...

vifproxyd runs one tinyproxy for every connected AppVM that has a list of hosts: a rule file here, or a
list in dom0. Only that VM reaches its proxy, at its gateway. When the VM goes, the proxy goes too. systemd
runs vifproxyd as vifproxyd.service; vifproxyctl(1) and 'journalctl -u vifproxyd' show what it does. On
SIGHUP it reads everything again. On SIGTERM it shuts all VMs out and ends.

Options, with their defaults:
`

// parseOptions reads the command line. With --help and --version it prints what was asked for, and returns flag.ErrHelp. Any other error
// is one line, which names the option and says what is wanted.
func parseOptions(args []string, help io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("vifproxyd", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {} // package flag would print it before each error, and systemd tries again each second
	o.define(f)
	showVersion := f.Bool("version", false, "print the version, then end")

	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		printUsage(f, help)
		return o, err
	} else if err != nil {
		return o, usage.Error(f, args, err, usage.Names(f), wants)
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; see `vifproxyd --help`", f.Arg(0))
	}
	if *showVersion {
		fmt.Fprintln(help, "vifproxyd", defaults.Version())
		return o, flag.ErrHelp
	}
	o.template = cmp.Or(o.template, filepath.Join(o.rulesDir, defaults.TemplateName))
	if o.drain < 0 {
		return o, fmt.Errorf("--drain=%v: want 0s or more", o.drain)
	}
	if o.listenPorts.First <= o.proxyPort && o.proxyPort <= o.listenPorts.Last {
		return o, fmt.Errorf("--proxy-port=%d is within --listen-ports=%d-%d", o.proxyPort, o.listenPorts.First, o.listenPorts.Last)
	}
	return o, nil
}

// define adds the options to f, and sets their defaults.
func (o *options) define(f *flag.FlagSet) {
	oneOf := func(to *string, name, text string, words ...string) {
		*to = words[0]
		f.Var(choice{to, words}, name, text)
	}
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
	oneOf(&o.qubesFirewall, "qubes-firewall", "on: firewall settings of AppVMs that name hosts, and drop the rest, are lists too; off: they are not; auto: they "+
		"are if dom0 has switched the service vifproxy-firewall on for this VM", "auto", "on", "off")
	f.StringVar(&o.runtimeDir, "runtime-dir", defaults.RuntimeDir, "`DIR` with a directory NAME for each AppVM: its log and its configuration")
	f.StringVar(&o.stateDir, "state-dir", defaults.StateDir, "`DIR` that keeps what `vifproxyctl stop` and `kill-all` have stopped, so that a restart\nof vifproxyd does not undo it, and which lines of lists are used (`vifproxyctl review`)")
	f.StringVar(&o.compatDir, "compat-dir", "", "`DIR`, such as /run/tinyproxy, in which vifproxyd keeps links to these directories, for\nprograms that use the old place; see migration.md (default: none)")
	f.StringVar(&o.controlSocket, "control-socket", defaults.ControlSocket, "unix `SOCKET` on which vifproxyctl reaches the daemon")
	f.StringVar(&o.socketGroup, "socket-group", "", "`GROUP` whose members may use the control socket, in addition to root (default: none)")
	o.proxyPort = defaults.ProxyPort
	f.Var((*port)(&o.proxyPort), "proxy-port", "TCP `PORT` at which every AppVM finds its own proxy")
	o.listenPorts = proxies.PortRange{First: defaults.FirstListenPort, Last: defaults.LastListenPort}
	f.Var((*ports)(&o.listenPorts), "listen-ports", "`FIRST-LAST` TCP ports on which the proxies listen; no other program may use them")
	oneOf(&o.firewall, "firewall", "`KIND` of firewall: auto and iptables keep a rule in the chain INPUT of iptables, if there is one; nftables never does", "auto", "nftables", "iptables")
	oneOf(&o.switchboard, "switchboard", "auto: have the kernel hand connections to the proxies' sockets where it can, without NAT; off: always use NAT", "auto", "off")
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
	oneOf(&o.onOwned, "on-owned", "log: tell of a proxy that asks for names as no tinyproxy does, because somebody has taken it over;\n"+
		"hold: stop its AppVM as well, until 'vifproxyctl start'", "log", "hold")
	oneOf(&o.onUnseen, "on-unseen", "log: tell of an AppVM with an address that nobody has had for 30 days, because it may have the list of another one;\n"+
		"hold: stop it as well, until 'vifproxyctl start'", "log", "hold")
	oneOf(&o.logFormat, "log-format", "`FORMAT` of messages: journal, text, json, or auto: journal under systemd",
		"auto", "journal", "text", "json")
	f.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "lowest `LEVEL` to log: debug, info, warn, error")
	f.BoolVar(&o.clean, "clean", false, "remove what a crashed vifproxyd has left (rules, proxies, files), then end")
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
