package display

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/net/idna"

	"vifproxy/internal/events"
	"vifproxy/internal/terminal"
)

// NothingDenied says that nothing was denied to the named VMs, or to any, since a time, or since vifproxyd started.
func NothingDenied(names []string, from time.Time) string {
	who, since := "any VM", "vifproxyd started"
	if len(names) > 0 {
		who = strings.Join(names, ", ")
	}
	if !from.IsZero() {
		since = Time(from)
	}
	return fmt.Sprintf("nothing was refused to %s, or failed, since %s", who, since)
}

// DeniedTable shows the newest first, with times as format writes them.
func DeniedTable(vms []events.Denied, format func(time.Time) string) string {
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

func Time(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// ShortTime returns the time of day of what was today, and of what was earlier the date as well, without the year: a list goes
// back as far as the start of vifproxyd.
func ShortTime(t, now time.Time) string {
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
