package main

import (
	"cmp"
	"flag"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/net/idna"

	"vifproxy/internal/events"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

func deniedVerb() verb {
	return verb{
		name: "denied", args: "[NAME...]", most: math.MaxInt, json: true,
		options: func(f *flag.FlagSet) action {
			var since usage.Length
			f.Var(&since, "since", "only what came in the last `TIME`, such as 10m, 1h30m or 2d")
			return func(c *call) error { return runDenied(c, since) }
		},
		summary: "List what VMs asked for and did not get, and why, newest first.",
		help: `vifproxyd keeps the last 256 of these hosts for each VM, until it is restarted. REASON is
    list        no rule permits the host: see allow
    port        the port is not open for tunnels (HTTPS): see ConnectPort
    name        the name has no address, or no name server answers
    connect     nobody answers, the host refuses, or something is in the way: the fence, a missing
                route, rules of another program
    template    Allow, Deny or BasicAuth in the template "config"
    full        as many connections as MaxClients permits are open; the next one waits
A host that does not answer is listed after 5 s. If an Upstream of the template "config" cannot
be reached, it is listed itself. HOST and PORT are "--" if tinyproxy does not name them. An
international name is shown as it was sent, followed by its other spelling in parentheses.

Browsers are known to request some hosts without a page. These hosts are marked "by itself" and come
last; a page may need them too. The exit status is 0 even if there is nothing to list.

With --json: an array of VMs, each with an array of hosts. In addition to "reason" a host has "what":
Allow, BasicAuth, no-answer, refused, closed, fence, no-route, another-table, too-many; and
"browser": what browsers request of the host without a page.
`,
	}
}

func runDenied(c *call, since usage.Length) error {
	if since.D < 0 {
		return usagef("--since=%s is in the future: write how long ago, such as 10m", since.Typed)
	}
	var from time.Time
	if since.Given {
		from = time.Now().Add(-since.D)
	}
	vms, err := c.client.Denied(c.ctx, c.args, from)
	if err != nil {
		return err
	}
	for _, vm := range vms {
		if vm.Forgotten > 0 {
			c.warn("%s: %d more, of hosts that newer ones have pushed off the list", terminal.Quote(vm.VM), vm.Forgotten)
		}
	}
	format := formatTime
	if terminal.Width(c.stdout) > 0 {
		format = func(t time.Time) string { return shortTime(t, time.Now()) }
	}
	text := deniedTable(vms, format)
	if !slices.ContainsFunc(vms, func(vm events.Denied) bool { return len(vm.Hosts) > 0 }) {
		text = nothingDenied(c.args, from) + "\n"
	}
	return c.print(orEmpty(vms), text)
}

// nothingDenied says that nothing was denied to the named VMs, or to any, since a time, or since vifproxyd started.
func nothingDenied(names []string, from time.Time) string {
	who, since := "any VM", "vifproxyd started"
	if len(names) > 0 {
		who = strings.Join(names, ", ")
	}
	if !from.IsZero() {
		since = formatTime(from)
	}
	return fmt.Sprintf("nothing was refused to %s, or failed, since %s", who, since)
}

// deniedTable shows the newest first, with times as format writes them.
func deniedTable(vms []events.Denied, format func(time.Time) string) string {
	type row struct {
		vm string
		events.DeniedHost
	}
	var rows []row
	for _, vm := range vms {
		for _, host := range vm.Hosts {
			rows = append(rows, row{vm.VM, host})
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(background(a.DeniedHost), background(b.DeniedHost)), b.Last.Compare(a.Last))
	})
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VM\tHOST\tCOUNT\tFIRST\tLAST\tPORT\tREASON")
	for _, r := range rows {
		port := ""
		if r.Port != 0 {
			port = strconv.Itoa(int(r.Port))
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", terminal.Quote(r.vm), hostText(r.Host), r.Count, format(r.First), format(r.Last),
			cell(port), cell(strings.Join(reasons(r.DeniedHost), "; ")))
	}
	w.Flush() // an error cannot come of memory
	return b.String()
}

// background returns 1 for a host that browsers request without a page, and 0 for others: it sorts behind those that a page may need.
func background(h events.DeniedHost) int {
	if h.Browser != "" {
		return 1
	}
	return 0
}

// reasons returns why a host was not reached, and who may have asked for it.
func reasons(h events.DeniedHost) []string {
	texts := []string{reasonText(h.Reason, h.Why)}
	if h.Browser != "" {
		texts = append(texts, byItself(h.Browser))
	}
	return texts
}

// byItself marks what browsers ask for without a page.
func byItself(purpose string) string { return "by itself: " + purpose }

// reasonText returns a reason with its explanation. The reason of a host that is not listed needs none.
func reasonText(reason events.Reason, why string) string {
	if why == "" || reason == events.ReasonList {
		return string(reason)
	}
	return string(reason) + ": " + why
}

func formatTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// shortTime returns the time of day of what was today, and of what was earlier the date as well, without the year: a list goes
// back as far as the start of vifproxyd.
func shortTime(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	if t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04:05")
	}
	return t.Format("Jan _2 15:04")
}

// hostText shows a host as it was sent. An international name is followed by the other way of writing it:
// letters look alike, their punycode does not.
func hostText(host string) string {
	var other string
	var err error
	switch {
	case strings.ContainsFunc(host, func(r rune) bool { return r > '~' }):
		other, err = idna.Lookup.ToASCII(host)
	case strings.Contains(strings.ToLower(host), "xn--"):
		other, err = idna.Display.ToUnicode(host)
	}
	if err != nil || other == "" || other == host || !terminal.IsPlain(other) {
		return cell(host)
	}
	return fmt.Sprintf("%s (%s)", terminal.Quote(host), other)
}
