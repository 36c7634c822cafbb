package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/usage"
)

// verb is one row of the table below, from which the help texts are made as well.
type verb struct {
	name, args  string
	summary     string // one line
	help        string // the rest of what there is to say
	least, most int    // number of arguments
	json        bool   // takes --json
	noJSON      string // what to do in its place, for the error
	flags       string // others that it takes, as in its help
	hidden      bool   // for the shells' completion, not for people
	run         func(*call) error
}

// verbs is the table. It is a function because one of its rows reads it.
func verbs() []verb {
	return []verb{{
		name: "show", args: "[NAME...]", most: math.MaxInt, json: true, flags: "[--wide]", run: list,
		summary: "List VMs that have a rule file, and what is wrong.",
		help: `STATE is one of
    running     its proxy listens, and the VM reaches it
    starting    on the way there
    waiting     has a rule file, but is not connected
    failed      its proxy does not start or does not stay; it is tried again
    refused     its rule file or the template "config" is wrong
    stopped     by a person, with stop or kill-all, until start

Below the table is what is wrong, or looks so, once for all VMs that it is about: errors in
files, lines that hardly mean what their author meant, black lists, a person's stop. The exit
status is 0 whatever state the VMs are in.

    --wide    also process, port, since when, restarts, how many packets of the proxy the
              fence has refused, and whether the proxy is fully confined
`,
	}, {
		name: "update", args: "[NAME...]", most: math.MaxInt, json: true, run: change(update),
		summary: "Read all rule files again, and wait until they are in force.",
		help: `vifproxyd notices changes by itself. Use update to know when they are in force, and to try
at once what has failed. What is stopped stays stopped. All files are read; NAME is which VMs are
shown and decide the exit status.
`,
	}, {
		name: "start", args: "NAME...", least: 1, most: math.MaxInt, json: true,
		run:     change((*control.Client).Start),
		summary: "Start the proxies of VMs that are stopped.",
	}, {
		name: "stop", args: "NAME...", least: 1, most: math.MaxInt, json: true,
		run:     change((*control.Client).Stop),
		summary: "Stop the proxies of VMs until start or restart.",
		help: `A stopped VM stays so whatever happens to vifproxyd and to the rule file: it is stopped by its
name and by its address, so that a file that gets another name, or another address, does not
start it. vifproxyd keeps that in /var/lib/vifproxy/stopped. Where a restart of this VM
empties /var, as in a disposable and in every VM with a template, it forgets.
`,
	}, {
		name: "restart", args: "NAME...", least: 1, most: math.MaxInt, json: true,
		run:     change((*control.Client).Restart),
		summary: "Give VMs new proxies, without a gap.",
	}, {
		name: "kill-all", json: true, run: change(killAll(false)),
		summary: "End all proxies at once; nobody has one until start.",
		help: `Open connections are cut. VMs whose rule files come later are stopped as well. "start NAME..."
lets VMs go one by one, kill-all-and-restart all of them. Only vifproxyd's own proxies are ended, no other tinyproxy.
`,
	}, {
		name: "kill-all-and-restart", json: true, run: change(killAll(true)),
		summary: "End all proxies at once, and start them again.",
		help: `Open connections are cut. VMs that were stopped are started too. Only vifproxyd's own proxies are ended, no other tinyproxy.
`,
	}, {
		name: "import", args: "[PATH]", most: 1, flags: "[--apply] [--rules-dir=DIR]", run: importOld,
		summary: "Take over a set-up of proxyctl.py, or say what is in its way.",
		help: `PATH (` + defaults.RulesDir + `) is searched for rule files, the template "config" and proxyctl.py, and
the directory above it for scripts that call proxyctl.py. Every finding is explained. Nothing is
changed without --apply; then what is good is copied to DIR, the directory that vifproxyd
reads, unless PATH is DIR, and proxyctl.py becomes a link to vifproxyctl. The exit status is 1 while something
needs your attention. vifproxyd need not run.
`,
	}, {
		name: "explain", args: "NAME URL|HOST[:PORT]", least: 2, most: 2, json: true, run: explain,
		summary: "Say whether a request of a VM passes, and why: it is tried.",
		help: `A tinyproxy of its own, with all that the VM's proxy has (user, sandbox, fence, rules),
resolves the name and connects. Then it ends: nothing is sent to HOST. A HOST alone stands for
https://HOST/. The verdict comes within 3 s, and with it what each guard on the way says:
    proxy         the VM's proxy runs, and has room for one more connection
    template      Allow, Deny and BasicAuth of the template "config"
    connect-port  ports to which a tunnel may go
    rules         which line of which file
    fence         the addresses that HOST has now
    try           what came of it
    remedy        what in the rule file makes it pass: that was tried, the same way

The exit status is
    0  the request passes
    1  it is refused: by the list, a port, the template "config" or the fence
    5  it fails: its name does not resolve, nobody answers, the proxy is stopped or full
`,
	}, {
		name: "allow", args: "NAME HOST...", least: 2, most: math.MaxInt, json: true, run: allow,
		flags:   "[--subdomains] [--for=TIME] [--dry-run] [--force] " + fileFlags,
		summary: "Let a VM reach hosts.",
		help: `A line for each HOST is added to the rule file of NAME, with dots and ends as they must
be, or the plain name if the file has "#: format domains". HOST may also be a URL, or
*.HOST for all hosts below it: ^[a-zA-Z0-9._-]*\.HOST$, as nothing but a host name passes.
The file is the one that vifproxyd reads, unless DIR is another. NAME.IP for NAME makes the
first file of a VM, with "#: format domains".

With a port, as in git.example:22 or https://shop.example:8443/, that port is opened too: the line
is git.example:22, or "#: port 22" in a file of patterns. It is open for all hosts of the list,
as tinyproxy ties no port to a host. Ports that the template "config" opens for all need no line.

    --subdomains    the hosts below each HOST too
    --for=TIME      for so long only, such as 10m, 1h30m or 7d, which is the most: no file is
                    changed, and vifproxyd takes it back by itself, open connections included
    --dry-run       change nothing, say what would be done
    --force         also what is too wide (co.uk, github.io and other public
                    suffixes), and localhost
`,
	}, {
		name: "deny", args: "NAME HOST...", least: 2, most: math.MaxInt, json: true, run: deny,
		flags:   "[--subdomains] [--dry-run] " + fileFlags,
		summary: "Take back what allow did.",
		help: `The lines that allow would add are removed from the rule file of NAME, and what is allowed
for a time ends. Open connections are cut. A HOST without a port is taken back with all its
ports; with one, in a file of patterns, that port is closed for all hosts. If something else still lets a HOST pass, it is
shown, and the exit status is 1.
`,
	}, {
		name: "check", args: "[FILE|NAME|DIR...]", most: math.MaxInt, json: true, run: check,
		flags:   "[--fix] [--tinyproxy=PATH] " + fileFlags,
		summary: "Find mistakes in rule files and template.",
		help: `All files of the directory that vifproxyd reads are read, or those of DIR, or the named ones, with
the template "config" next to them. No vifproxyd is needed. Patterns and the template are
tried with tinyproxy (/usr/bin/tinyproxy), if there is one. The exit status is 0 if nothing is
wrong, and 1 otherwise, also if there are no rule files.

    --fix           rewrite lines that can have meant one thing only, as a URL among names, remove
                    those that add nothing, and show both. What can mean two things stays, as
                    names without "#: format domains". No line allows a host that it did not, but a
                    file that was refused may become valid, and then all its lines are in force.
`,
	}, {
		name: "denied", args: "[NAME...]", most: math.MaxInt, json: true, flags: "[--since=TIME]", run: denied,
		summary: "List what VMs asked for and did not get, and why, newest first.",
		help: `vifproxyd keeps the last 256 of these hosts for each VM, until it is restarted. REASON is
    list        no rule permits the host: see allow
    port        a tunnel (HTTPS) to a port that tunnels may not go to: see ConnectPort
    name        the name has no address: there is none, or no name server answers
    connect     nobody answers, the host refuses, or something is in the way: the fence, no
                route, rules of another program
    template    Allow, Deny or BasicAuth in the template "config"
    full        as many connections as MaxClients permits are open: the next one waits
A host that does not answer is listed after 5 s. If an Upstream of the template "config" cannot
be reached, it is listed itself. HOST and PORT are "--" where tinyproxy does not say them. Hosts
that browsers are known to ask for by themselves, without a page, are marked "by itself" and
come last; a page may need them all the same. An international name is shown as it was sent and,
in parentheses, the other way of writing it. The exit status is 0 also if there is nothing to
list. With --json: an array
of VMs, each with an array of hosts, which have "what" besides "reason": Allow, BasicAuth,
no-answer, refused, closed, fence, no-route, another-table; and "browser": what browsers want of
the host by themselves.

    --since=TIME    only what came in the last TIME, such as 10m, 1h30m or 2d
`,
	}, {
		name: "watch", args: "[NAME...]", most: math.MaxInt, json: true, run: watch,
		summary: "Show what happens, line by line, as it happens.",
		help: `VMs come and go, proxies listen, hosts are refused, changes of rules are in force. What
concerns no VM in particular is shown as well. It ends with Ctrl-C, not with vifproxyd: it
waits for that to come back. Of what a VM is refused or does not reach one a second is
shown, after a burst of 20; denied counts all of it. Of that burst 10 are for hosts that no
browser asks for by itself; those that one does are marked.

On a terminal lines have colours, unless NO_COLOR is set. With --json each line is an
object, whose "event" says what happened:
    watching                    the first line, and again when vifproxyd is back
    lost                        vifproxyd has gone
    missed                      "count" events were not read fast enough
    refused                     a VM was refused "host" at "port", for "reason" list or port
    unreached                   "host" was not reached, for "reason" name or connect
    turned-away, full           "reason" template, full; "not_shown" before were not shown
    connected, disconnected     a VM, on "vif"
    rules-found, -renamed, -gone, -accepted, -refused, -odd, -odd-more
    black-list                  the rule file of a VM says what is forbidden, not what passes
    allowed, allowed-no-more    "host", for a time
    stopped, started            a VM, by a person
    proxy-listens, -retires, -ends, -died, -fails
    in-force                    a change, "ms" after it was noticed
    daemon-starts, -stops, -fails, reloading, deaf, trouble, impaired, recovered, leftovers,
    not-shown, confined, half-confined, vulnerable, still-tracked, unfenced,
    barred, not-barred
`,
	}, {
		name: "log", args: "NAME", least: 1, most: 1, run: showLog,
		flags:   "[-f|--follow] [-n=LINES] [--all]",
		summary: "Show what the proxies of a VM have logged.",
		help: `    -f, --follow    go on with what comes, until Ctrl-C; begin with the last 10 lines
    -n LINES        only the last lines, or as many before those that come
    --all           also what tinyproxy says at each start, change of rules and end, and its
                    warnings of directives that another version of it needs

Control characters are shown as escapes. vifproxyd keeps up to 2 MiB for each VM, less where many
share little memory, until it is restarted.
`,
	}, {
		name: "client", args: "NAME", least: 1, most: 1, run: configure,
		flags:   "[--format=FORMAT]",
		noJSON:  "; --format=firefox-policy and --format=chromium-policy are JSON",
		summary: "Print what makes programs in a VM use its proxy.",
		help: `FORMAT is one of
    env                variables for shells and their programs, or /etc/environment (the default)
    firefox            lines for user.js in a profile of Firefox, each with its reason
    firefox-policy     JSON for /etc/firefox/policies/policies.json: the proxy, locked
    chromium-policy    JSON for a file *.json in /etc/chromium/policies/managed: the same
    pac                a proxy auto-configuration file, for browsers and desktops

All but env and pac also end what the browser asks for by itself: telemetry,
updates, lists of unsafe sites, the look for a captive portal, DNS over HTTPS, requests before a
page is wanted, accounts, push messages, news in a new tab. Debian and Fedora update the browser.
Policies are for all users and all profiles of a VM, also new ones as in a disposable; and
Chromium reads the variables of env in no session of GNOME.

To carry a policy over, in the VM of vifproxyctl, and then in NAME, whose /etc is its template's
again when it restarts:
    $ sudo vifproxyctl client NAME --format=firefox-policy >policies.json
    $ qvm-copy policies.json        # dom0 asks where to: NAME

    $ sudo cp ~/QubesIncoming/*/policies.json /rw/config/firefox-policies.json
    $ echo 'install -D -m 644 /rw/config/firefox-policies.json /etc/firefox/policies/policies.json' |
        sudo tee -a /rw/config/rc.local
    $ sudo chmod +x /rw/config/rc.local; sudo /rw/config/rc.local
`,
	}, {
		name: "doctor", json: true, run: examine,
		flags:   "[--verbose] [--tinyproxy=PATH] " + fileFlags,
		summary: "Say whether everything around vifproxyd is as it should be.",
		help: `Each line is a finding, with a remedy where something can be done:
    ok       as it should be
    note     may be meant so
    wrong    makes the exit status 1

It looks at vifproxyd and what that says of itself, tinyproxy and the advisories on it, the firewall,
what this machine has to confine proxies with, rule files, what all VMs together may take of this
machine, connected VMs, signs of a second firewall VM between, what the rules in dom0 let
VMs do without their proxies, routes and tunnels, resolvers, each of which it asks once, the
service in dom0, and what this VM keeps at a restart. vifproxyd opens a connection for up to three
VMs, to the first host of their lists, and sends nothing. If there is a route for IPv6, that host is tried by it. Chains of other programs are read for
what drops that, or what VMs send to their proxies. Nothing is changed. vifproxyd need not run; then the options tell where tinyproxy and
files are. Findings of one kind are one line.

    --verbose    also what such a line sums up

With --json: an array of objects with check, level, text, remedy and, if the text sums up, details.
`,
	}, {
		name: "complete", args: "WORD...", most: math.MaxInt, hidden: true, run: complete,
		summary: "Print what may come next in a command line.",
	}, {
		name: "version", run: func(c *call) error { return say(c.stdout, "vifproxyctl %s\n", c.version) },
		summary: "Print the version.",
	}, {
		name: "help", args: "[VERB]", most: 1, run: help,
		summary: "Explain vifproxyctl, one verb, or, with rules, what stands in rule files.",
	}}
}

// fileFlags are those of verbs that read rule files themselves.
const fileFlags = "[--rules-dir=DIR] [--template=FILE]"

// takes tells whether the verb has a flag of its own of this name.
func (v verb) takes(name string) bool {
	for _, flag := range strings.FieldsFunc(v.flags, func(r rune) bool { return strings.ContainsRune("[]| ", r) }) {
		if flag, _, _ = strings.Cut(flag, "="); strings.TrimLeft(flag, "-") == name {
			return true
		}
	}
	return false
}

func update(c *control.Client, ctx context.Context, names []string) (control.Status, error) {
	status, err := c.Update(ctx)
	if err == nil {
		err = known(status, names)
	}
	return status, err
}

func killAll(restart bool) func(*control.Client, context.Context, []string) (control.Status, error) {
	return func(c *control.Client, ctx context.Context, _ []string) (control.Status, error) {
		return c.KillAll(ctx, restart)
	}
}

func say(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintf(w, format, args...)
	return err
}

// synonyms are words that people try, and the verbs that do what they mean.
var synonyms = map[string]string{
	"status": "show", "list": "show", "ls": "show", "reload": "update", "refresh": "update", "add": "allow", "remove": "deny",
	"rm": "deny", "revoke": "deny", "logs": "log", "lint": "check", "refused": "denied", "blocked": "denied", "test": "explain",
}

// find looks a verb up, and guesses what was meant when there is none of that name.
func find(name string) (verb, error) {
	var known []string
	for _, v := range verbs() {
		if v.name == name {
			return v, nil
		}
		if !v.hidden {
			known = append(known, v.name)
		}
	}
	if meant := cmp.Or(synonyms[name], usage.Nearest(name, known)); meant != "" {
		return verb{}, usagef("there is no verb %q: did you mean `%s`?", name, meant)
	}
	return verb{}, usagef("there is no verb %q; see `vifproxyctl --help`", name)
}
