package supervisor

import (
	"vifproxy/control"
	"vifproxy/internal/policy"
)

// A Policy is what one AppVM's proxy may do.
type Policy = policy.Policy

// listOf returns what the rule file is to tinyproxy, in the words of package control.
func listOf(p *Policy) string {
	if p.Config.Filter.DefaultDeny {
		return control.White
	}
	return control.Black
}
