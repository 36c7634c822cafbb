package display

import (
	"cmp"
	"fmt"
	"strings"

	"vifproxy/internal/events"
	"vifproxy/internal/terminal"
)

// Event returns an event for a person.
func Event(e events.Event, colours bool) string {
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

// eventColour returns an SGR parameter of ECMA-48: red for errors, yellow for what a person may want to look at, faint for what browsers
// request without a page, green for what works from now on.
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
