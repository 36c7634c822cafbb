package proxies

import (
	"fmt"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/events"
	"vifproxy/tinyproxy/confine"
)

// Confine finds out how this machine can confine proxies, and emits an event that says so, with what it lacks. If everything is
// required, a lack is an error.
func Confine(emitter *events.Emitter, allRequired bool) (*confine.Sandbox, control.Confinement, error) {
	s, err := confine.New(defaults.Helper("vifproxy-confine"))
	if err != nil {
		return nil, control.Confinement{}, err
	}
	if err := s.EnterGroup(); err != nil {
		emitter.Log.Warn("proxies have no cgroup of their own", "err", err)
	}
	if err := s.Stayed(); err != nil {
		emitter.Log.Warn("cgroups of an earlier run stay", "err", err)
	}
	c := control.Confinement{Applied: s.Applied, Missing: []control.Lack{}}
	var missing []string
	for _, lack := range s.Missing {
		c.Missing = append(c.Missing, control.Lack(lack))
		missing = append(missing, lack.String())
	}
	applied, why := strings.Join(s.Applied, ", "), strings.Join(missing, "; ")
	switch {
	case len(missing) == 0:
		emitter.Emit(events.Confined, events.About{What: applied})
	case allRequired:
		s.Close()
		return nil, c, fmt.Errorf("this machine cannot confine proxies fully: %s; mend it, or start without "+
			"--require-confinement", why)
	default:
		emitter.Emit(events.PartlyConfined, events.About{What: applied, Why: why})
	}
	return s, c, nil
}
