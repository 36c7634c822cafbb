package main

import (
	"context"
	"fmt"
	"strings"

	"vifproxy/internal/usage"
	"vifproxy/rules"
)

// overview is the help for all verbs together, with two places: for the list of them, and for their options.
const overview = `Vifproxyctl shows and controls vifproxyd, which runs one filtering proxy for every AppVM
that has a list.

Usage:
    vifproxyctl [--socket=PATH] VERB [OPTION...] [NAME...]

Verbs:
%s
Options:
%s
Verbs that read or write rule files ask vifproxyd where these are. --rules-dir=DIR, --template=FILE and
--ceiling=FILE overrule it; the verb says so.

A verb that changes something fails if one of its VMs is in trouble. Its VMs are those with a NAME, or all
if there is no NAME. The verb names each of them on standard error.

Exit status:
    0  all is well
    1  a VM is in trouble, vifproxyd could not do it, a request is refused,
       or a file has mistakes
    2  wrong usage
    3  vifproxyd is not running
    4  permission denied
    5  a request that explain tries fails although nothing refuses it

Example:
    $ vifproxyctl show
    NAME    STATE    VIF     IP
    bank    running  vif7.0  10.137.0.12
    social  waiting  --      10.137.0.13
    $ vifproxyctl restart bank
`

func helpVerb() verb {
	return verb{
		name: "help", args: "[VERB]", most: 1, options: plain(runHelp),
		summary: "Explain vifproxyctl, one VERB, or rule files (help rules).",
	}
}

func versionVerb() verb {
	return verb{
		name: "version", options: plain(func(_ context.Context, c *call) error { return say(c.stdout, "vifproxyctl %s\n", c.version) }),
		summary: "Print the version.",
	}
}

func runHelp(_ context.Context, c *call) error {
	text := ""
	switch {
	case len(c.args) == 0:
		text = overviewText()
	case c.args[0] == "rules":
		text = rules.Help
	default:
		v, err := verbNamed(c.args[0])
		if err != nil && usage.Nearest(c.args[0], []string{"rules"}) != "" {
			return usagef("there is no verb %q: did you mean `help rules`?", c.args[0])
		}
		if err != nil {
			return err
		}
		text = v.helpText()
	}
	return say(c.stdout, "%s", usage.Fill(text))
}

// overviewText returns the help for all verbs together.
func overviewText() string {
	var rows strings.Builder
	for _, v := range verbs() {
		if !v.hidden {
			fmt.Fprintf(&rows, "    %-28s  %s\n", strings.TrimSpace(v.name+" "+v.args), v.summary)
		}
	}
	f := usage.FlagSet("")
	new(general).define(f)
	return fmt.Sprintf(overview, rows.String(), usage.OptionList(usage.Options(f)))
}

// helpText returns the help for one verb.
func (v verb) helpText() string {
	synopsis := "vifproxyctl " + v.name
	if v.json {
		synopsis += " [--json]"
	}
	options := usage.Options(v.flagSet())
	for _, o := range options {
		synopsis += " " + o.Synopsis()
	}
	text := fmt.Sprintf("Usage:\n    %s\n\n%s\n", strings.TrimSpace(synopsis+" "+v.args), v.summary)
	if v.help != "" {
		text += "\n" + v.help
	}
	if len(options) > 0 {
		text += "\nOptions:\n" + usage.OptionList(options)
	}
	return text
}
