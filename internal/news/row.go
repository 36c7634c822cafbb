package news

import (
	"vifproxy/control"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
	"vifproxy/internal/sightings"
)

// Row returns what `show` prints of an AppVM that should be there, without what is about its processes.
func Row(d *plan.Desired, is StateSince, book *sightings.Book) control.VM {
	row := control.VM{
		Name: d.Name, Interfaces: append([]string{}, d.Vifs...),
		State: is.State, Since: is.Since, Seen: is.Seen, Error: is.Problem, StoppedBy: d.StoppedBy,
		Path: d.Path, Origin: string(d.Origin),
	}
	if d.Addr.IsValid() { // a refused file may have none
		row.IP, row.Sighting = d.Addr.String(), book.Of(d.Name, d.Addr)
	}
	if d.Policy != nil {
		row.AnyAddress, row.List = d.Policy.AnyAddress, ListOf(d.Policy)
		if len(d.Policy.Findings) > 0 {
			row.Doubt, row.Doubts = d.Policy.Findings[0], len(d.Policy.Findings)
		}
	}
	if d.Connected() {
		row.Gateway = d.Gateway().String()
	}
	return row
}

// ListOf returns what the rule file is to tinyproxy, in the words of package control.
func ListOf(p *policy.Policy) string {
	if p.Config.Filter.DefaultDeny {
		return control.White
	}
	return control.Black
}
