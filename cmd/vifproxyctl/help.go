package main

import (
	"fmt"
	"strings"

	"vifproxy/internal/defaults"
	"vifproxy/internal/usage"
	"vifproxy/rules"
)

// overview is the help for all verbs together; %s is the list of them.
const overview = `Vifproxyctl shows and steers vifproxyd, which runs one filtering proxy for every AppVM
that has a rule file.

Usage:
    vifproxyctl [--socket=PATH] VERB [OPTION...] [NAME...]

Verbs:
%s
Options:
    --socket=PATH    The control socket of vifproxyd (` + defaults.ControlSocket + `).
    --json           Print JSON, of most verbs an array of VMs.
    --help           Explain, with a VERB only that.
    --version        Print the version.

Verbs that read or write rule files ask vifproxyd where they are. --rules-dir=DIR and
--template=FILE, of those verbs, overrule it, which they say.

Verbs that change something fail when a VM concerned is in trouble: NAME, or all if there is none.
Each is named on standard error.

Exit status:
    0  all is well
    1  a VM concerned is in trouble, vifproxyd could not do it, a request is refused,
       or a file has mistakes
    2  wrong usage
    3  vifproxyd is not running
    4  permission denied
    5  a request that explain tries fails, although nothing refuses it

Example:
    $ vifproxyctl show
    NAME    STATE    VIF     IP
    bank    running  vif7.0  10.137.0.12
    social  waiting  --      10.137.0.13
    $ vifproxyctl restart bank
`

func help(c *call) error {
	if len(c.names) == 0 {
		var rows strings.Builder
		for _, v := range verbs() {
			if v.hidden {
				continue
			}
			fmt.Fprintf(&rows, "    %-28s  %s\n", strings.TrimSpace(v.name+" "+v.args), v.summary)
		}
		return say(c.stdout, "%s", usage.Fill(fmt.Sprintf(overview, rows.String())))
	}
	if c.names[0] == "rules" {
		return say(c.stdout, "%s", usage.Fill(rules.Help))
	}
	v, err := find(c.names[0])
	if err != nil {
		return err
	}
	synopsis := "vifproxyctl " + v.name
	if v.json {
		synopsis += " [--json]"
	}
	if v.flags != "" {
		synopsis += " " + v.flags
	}
	text := fmt.Sprintf("Usage:\n    %s\n\n%s\n", strings.TrimSpace(synopsis+" "+v.args), v.summary)
	if v.help != "" {
		text += "\n" + v.help
	}
	return say(c.stdout, "%s", usage.Fill(text))
}
