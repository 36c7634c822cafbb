package main

import (
	"context"
	"net/netip"

	"vifproxy/control"
	"vifproxy/internal/display"
	"vifproxy/internal/terminal"
)

func explainVerb() verb {
	return verb{
		name: "explain", args: "NAME URL|HOST[:PORT]", least: 2, most: 2, json: true, options: plain(runExplain),
		summary: "Say whether a request of a VM passes, and why: it is tried.",
		help: `A second tinyproxy, with the same user, sandbox, fence and rules as the VM's proxy, resolves the name
and connects. Then it ends, and nothing is sent to HOST. A HOST alone stands for https://HOST/. The
verdict comes within 3 s, with what each guard on the way says:
    proxy         the VM's proxy runs, and has room for one more connection
    template      Allow, Deny and BasicAuth of the template "config"
    connect-port  ports to which a tunnel may go
    rules         the line of the file that decides
    fence         the addresses that HOST has now
    try           the result of the connection
    remedy        the line in the rule file that lets the request pass; it was tried, the same way

The exit status is
    0  the request passes
    1  it is refused: by the list, a port, the template "config" or the fence
    5  it fails: its name does not resolve, nobody answers, the proxy is stopped or full
`,
	}
}

// runExplain fails if the request would not pass.
func runExplain(ctx context.Context, c *call) error {
	if network, err := netip.ParsePrefix(c.args[1]); err == nil {
		return usagef("%v is a network: explain one address of it", network)
	}
	e, err := c.client.Explain(ctx, c.args[0], c.args[1])
	if err == nil {
		err = c.print(e, display.Explanation(e, terminal.Width(c.stdout)))
	}
	switch {
	case err != nil || e.Verdict == control.Passes:
		return err
	case e.Verdict == control.Fails:
		return errFails
	}
	return errTrouble
}
