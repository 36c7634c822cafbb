package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/net/idna"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/terminal"
)

// denied lists what VMs asked for and did not get.
func denied(c *call) error {
	var since time.Time
	if c.since.given {
		since = time.Now().Add(-c.since.d)
	}
	vms, err := control.NewClient(c.socket).Denied(context.Background(), c.names, since)
	if err != nil {
		return err
	}
	for _, vm := range vms {
		if vm.Forgotten > 0 {
			fmt.Fprintf(c.stderr, "vifproxyctl: %s: %d more, of hosts that newer ones have pushed off the list\n",
				terminal.Quote(vm.VM), vm.Forgotten)
		}
	}
	var text []byte
	nothing := !slices.ContainsFunc(vms, func(vm events.Denied) bool { return len(vm.Hosts) > 0 })
	switch {
	case c.json:
		if text, err = array(vms); err != nil {
			return err
		}
	case nothing:
		text = []byte(nothingDenied(c) + "\n")
	default:
		text = deniedTable(vms)
	}
	_, err = c.stdout.Write(text)
	return err
}

// nothingDenied says so, for the VMs and the time that were asked for.
func nothingDenied(c *call) string {
	who, since := "any VM", "vifproxyd started"
	if len(c.names) > 0 {
		who = strings.Join(c.names, ", ")
	}
	if c.since.given {
		since = moment(time.Now().Add(-c.since.d))
	}
	return fmt.Sprintf("nothing was refused to %s, or failed, since %s", who, since)
}

func deniedTable(vms []events.Denied) []byte {
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
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VM\tHOST\tCOUNT\tFIRST\tLAST\tPORT\tREASON")
	for _, r := range rows {
		port := ""
		if r.Port != 0 {
			port = strconv.Itoa(int(r.Port))
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", terminal.Quote(r.vm), hostText(r.Host), r.Count, moment(r.First), moment(r.Last),
			cell(port), cell(strings.Join(reasons(r.DeniedHost), "; ")))
	}
	w.Flush() // to memory
	return b.Bytes()
}

// background is 1 for a host that browsers ask for by themselves: it comes behind those that a page may miss.
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

// reasonText is a reason with what explains it. That of a host that is not listed needs no more words.
func reasonText(reason events.Reason, why string) string {
	if why == "" || reason == events.ReasonList {
		return string(reason)
	}
	return string(reason) + ": " + why
}

func moment(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

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

// again is how often a daemon that has gone is looked for.
const again = 200 * time.Millisecond

// watch shows what happens, and goes on when the daemon does.
func watch(c *call) error {
	client, colours := control.NewClient(c.socket), terminal.ShowsColours(c.stdout)
	var broken error // standard output
	show := func(e events.Event) error {
		text := []byte(eventLine(e, colours))
		if c.json {
			if text, broken = terminal.JSON(e, ""); broken != nil {
				return broken
			}
		}
		_, broken = c.stdout.Write(text)
		return broken
	}
	watching := false // now
	for begun := false; ; {
		err := client.Watch(context.Background(), c.names, func(e events.Event) error {
			begun, watching = true, true
			return show(e)
		})
		switch {
		case broken != nil:
			return broken
		case !begun || isFinal(err):
			return err
		case watching:
			watching = false
			lost := events.Event{Time: time.Now(), Event: events.Lost, Level: "warn",
				Text: "vifproxyd has gone: waiting for it to come back"}
			if err := show(lost); err != nil {
				return err
			}
		}
		time.Sleep(again)
	}
}

// isFinal tells whether the daemon has said no: all else comes of its stopping and starting, also that it does
// not know a VM, or does not let us in, until it has looked around.
func isFinal(err error) bool {
	var said *control.DaemonError
	return errors.As(err, &said) && said.Code != http.StatusNotFound && said.Code != http.StatusServiceUnavailable
}

// eventLine is an event for a person.
func eventLine(e events.Event, colours bool) string {
	var details []string
	for _, a := range e.Attrs() {
		value := terminal.Quote(a.Value.String())
		switch a.Key {
		case "vm", "ip":
			continue
		case "host":
			value = hostText(a.Value.String())
		case "reason":
			value = terminal.Quote(reasonText(e.Reason, e.Why))
		case "browser":
			value = terminal.Quote(byItself(a.Value.String()))
		case "what", "why":
			if e.Reason != "" {
				continue // said with the reason
			}
		case "port", "pid", "version":
			value = a.Key + " " + value
		case "ms":
			value += " ms"
		case "retry_ms":
			value = "again in " + value + " ms"
		case "seconds":
			value = "for " + value + " s"
		case "old":
			value = "was " + value
		case "connections":
			value += " connections cut"
		case "not_shown":
			value += " before not shown"
		}
		details = append(details, value)
	}
	text := terminal.Quote(e.Text)
	if len(details) > 0 {
		text += ": " + strings.Join(details, ", ")
	}
	if colour := eventColour(e); colours && colour != "" {
		text = "\x1b[" + colour + "m" + text + "\x1b[0m"
	}
	return fmt.Sprintf("%s  %-12s  %s\n", e.Time.Local().Format("15:04:05.000"), cmp.Or(terminal.Quote(e.VM), "--"), text)
}

// eventColour is an SGR parameter of ECMA-48: red for errors, yellow for what a person may want to look at, faint for
// what browsers ask for by themselves, green for what works from now on.
func eventColour(e events.Event) string {
	switch {
	case e.Level == "error":
		return "31"
	case e.Browser != "":
		return "2"
	case e.Level == "warn" || e.Reason != "":
		return "33"
	case e.Event == "proxy-listens" || e.Event == "in-force":
		return "32"
	}
	return ""
}
