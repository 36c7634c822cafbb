package supervisor

import (
	"fmt"
	"strings"

	"vifproxy/control"
	"vifproxy/tinyproxy/confine"
)

// Confine finds out how this machine can confine proxies and says so, in particular what it lacks. If all is
// required, to lack something is an error.
func Confine(events *Events, allRequired bool) (*confine.Sandbox, error) {
	s, err := confine.New(confine.HelperPath())
	if err != nil {
		return nil, err
	}
	applied, missing := strings.Join(s.Applied, ", "), strings.Join(s.Missing, "; ")
	switch {
	case missing == "":
		events.Emit(confined, control.About{What: applied})
	case allRequired:
		s.Close()
		return nil, fmt.Errorf("this machine cannot confine proxies fully: %s (mend it, or start without "+
			"--require-confinement)", missing)
	default:
		events.Emit(halfConfined, control.About{What: applied, Why: missing})
	}
	return s, nil
}
