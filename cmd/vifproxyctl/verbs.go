package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"

	"vifproxy/control"
)

const defaultSocket = "/run/vifproxy/control.sock"

// verb is one row of the table below, from which the help texts are made as well.
type verb struct {
	name, args  string
	summary     string // one line
	help        string // the rest of what there is to say
	least, most int    // number of arguments
	json        bool   // takes --json
	own         bool   // takes --apply and --rules-dir
	run         func(*call) error
}

// verbs is the table. It is a function because one of its rows reads it.
func verbs() []verb {
	return []verb{{
		name: "show", json: true, run: list,
		summary: "List all VMs that have a rule file, and their proxies.",
		help: `STATE is one of
    running     its proxy listens, and the VM reaches it
    starting    on the way there
    waiting     has a rule file, but is not connected
    failed      its proxy does not start or does not stay; it is tried again
    refused     its rule file or the template is wrong: see ERROR
    stopped     held by stop or kill-all

A running VM that has an ERROR is served by its last good rules. The exit status is 0
whatever state the VMs are in.
`,
	}, {
		name: "update", json: true, run: change(update),
		summary: "Read all rule files again, and wait until they are in force.",
		help: `vifproxyd notices changes by itself. Use update to know when they are in force, to try
at once what has failed, and to start all that stop and kill-all hold.
`,
	}, {
		name: "start", args: "NAME...", least: 1, most: math.MaxInt, json: true,
		run:     change((*control.Client).Start),
		summary: "Start the proxies of VMs that are held.",
	}, {
		name: "stop", args: "NAME...", least: 1, most: math.MaxInt, json: true,
		run:     change((*control.Client).Stop),
		summary: "Stop the proxies of VMs, and hold them until start or update.",
	}, {
		name: "restart", args: "NAME...", least: 1, most: math.MaxInt, json: true,
		run:     change((*control.Client).Restart),
		summary: "Give VMs new proxies, without a gap.",
	}, {
		name: "kill-all", json: true, run: change(killAll(false)),
		summary: "End all proxies at once, and hold them until start or update.",
		help: `Open connections are cut. Only vifproxyd's own proxies are ended, no other tinyproxy.
`,
	}, {
		name: "kill-all-and-restart", json: true, run: change(killAll(true)),
		summary: "End all proxies at once, and start them again.",
		help: `Open connections are cut. Only vifproxyd's own proxies are ended, no other tinyproxy.
`,
	}, {
		name: "import", args: "[--apply] [--rules-dir=DIR] [PATH]", most: 1, own: true, run: importOld,
		summary: "Take over a set-up of proxyctl.py, or say what is in its way.",
		help: `PATH (` + defaultRules + `) is searched for rule files, the template and proxyctl.py, and
the directory above it for scripts that call proxyctl.py. Every finding is explained. Nothing is
changed without --apply; then what is good is copied to DIR (` + defaultRules + `) unless
PATH is DIR, and proxyctl.py becomes a link to vifproxyctl. The exit status is 1 while something
needs your attention. vifproxyd need not run.
`,
	}, {
		name: "version", run: func(c *call) error { return say(c.stdout, "vifproxyctl %s\n", build()) },
		summary: "Print the version.",
	}, {
		name: "help", args: "[VERB]", most: 1, run: help,
		summary: "Explain vifproxyctl, or one verb.",
	}}
}

func update(c *control.Client, ctx context.Context, _ []string) (control.Status, error) {
	return c.Update(ctx)
}

func killAll(restart bool) func(*control.Client, context.Context, []string) (control.Status, error) {
	return func(c *control.Client, ctx context.Context, _ []string) (control.Status, error) {
		return c.KillAll(ctx, restart)
	}
}

const usage = `Vifproxyctl shows and steers vifproxyd, which runs one filtering proxy for every AppVM
that has a rule file.

Usage:
    vifproxyctl [--socket=PATH] VERB [--json] [NAME...]

Verbs:
%s
Options:
    --socket=PATH    The control socket of vifproxyd (` + defaultSocket + `).
    --json           Print an array of VMs as JSON.
    --help           Explain, with a VERB only that.
    --version        Print the version.

All verbs but show fail when a VM concerned is in trouble: NAME, or all if there is none.
Each is named on standard error.

Exit status:
    0  all is well
    1  a VM concerned is in trouble, or vifproxyd could not do it
    2  wrong usage
    3  vifproxyd is not running
    4  permission denied

Example:
    $ vifproxyctl show
    NAME    IP           INTERFACE  PID   PORT   STATE    SINCE                RESTARTS  ERROR
    bank    10.137.0.12  vif7.0     2214  61003  running  2024-11-23 07:31:08  0         --
    social  10.137.0.13  --         --    --     waiting  2024-11-23 07:30:52  0         --
    $ vifproxyctl restart bank
`

func help(c *call) error {
	if len(c.names) == 0 {
		var rows strings.Builder
		for _, v := range verbs() {
			fmt.Fprintf(&rows, "    %-22s %s\n", strings.TrimSpace(v.name+" "+v.args), v.summary)
		}
		return say(c.stdout, usage, rows.String())
	}
	v, err := find(c.names[0])
	if err != nil {
		return err
	}
	synopsis := "vifproxyctl " + v.name
	if v.json {
		synopsis += " [--json]"
	}
	text := fmt.Sprintf("Usage:\n    %s\n\n%s\n", strings.TrimSpace(synopsis+" "+v.args), v.summary)
	if v.help != "" {
		text += "\n" + v.help
	}
	return say(c.stdout, "%s", text)
}

func say(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintf(w, format, args...)
	return err
}

// find looks a verb up, and guesses what was meant when there is none of that name.
func find(name string) (verb, error) {
	var nearest string
	least := 3 // more mistakes than this are another word
	for _, v := range verbs() {
		if v.name == name {
			return v, nil
		}
		if d := distance(name, v.name); d < least {
			nearest, least = v.name, d
		}
	}
	if nearest != "" {
		return verb{}, usagef("there is no verb %q: did you mean `%s`?", name, nearest)
	}
	return verb{}, usagef("there is no verb %q; see `vifproxyctl --help`", name)
}

// distance is how many bytes must be inserted, removed or replaced to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1) // from the part of a seen so far to every beginning of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
