package firewall

import "fmt"

// An Inspection lists which of a backend's rules the kernel holds, in words for people: "table ip vifproxy".
type Inspection struct {
	Present, Missing []string
}

// Note adds one thing, which is there or not.
func (i *Inspection) Note(there bool, format string, args ...any) {
	if text := fmt.Sprintf(format, args...); there {
		i.Present = append(i.Present, text)
	} else {
		i.Missing = append(i.Missing, text)
	}
}
