package forward

import (
	"slices"
	"strings"
)

const ifNameSize = 16 // IFNAMSIZ, with the final zero

// A linkName is a name in a rule: of one interface, or of all that begin so.
type linkName struct {
	name   string
	prefix bool
}

func (n linkName) fits(name string) bool {
	return name == n.name || n.prefix && strings.HasPrefix(name, n.name)
}

// out reports whether a packet leaves by an interface of that name.
func (n linkName) out(q asked) answer { return whether(n.fits(q.out.name)) }

// in reports whether it comes by one: packets of AppVMs come by vifs.
func (n linkName) in(asked) answer {
	switch {
	case n.prefix && strings.HasPrefix("vif", n.name):
		return always
	case strings.HasPrefix(n.name, "vif"):
		return maybe
	}
	return never
}

// inGroup reports whether a packet comes by an interface of that group. Those of AppVMs are in group 2 (qubes-core-agent-linux,
// network/vif-route-qubes).
func inGroup(group uint32) func(asked) answer {
	return func(q asked) answer {
		in := 0
		for _, vif := range q.vifs {
			if vif.group == group {
				in++
			}
		}
		switch {
		case len(q.vifs) == 0 && group == 2, in > 0 && in == len(q.vifs):
			return always
		case in > 0 || group == 2:
			return maybe
		}
		return never
	}
}

// inIndex does the same for one interface.
func inIndex(index uint32) func(asked) answer {
	return func(q asked) answer {
		if slices.ContainsFunc(q.uplinks, func(l link) bool { return l.index == index }) {
			return never
		}
		return maybe // a vif, perhaps a new one
	}
}
