package doctor

import (
	"os"
	"regexp"
	"strings"

	"vifproxy/internal/defaults"
)

// assignment is a line that systemd takes (systemd.exec(5), EnvironmentFile=).
var assignment = regexp.MustCompile(`^[ \t]*([A-Za-z_][A-Za-z0-9_]*)=`)

// options finds lines in the option files that have no effect. systemd ignores what is not an assignment.
func (d *doctor) options() {
	const check, remedy = "options", `write OPTIONS="--option ...", all options in one line`
	for _, path := range defaults.OptionFiles {
		text, _ := os.ReadFile(d.Root + path)
		continued := false
		for i, line := range strings.Split(string(text), "\n") {
			begins := !continued
			continued = strings.HasSuffix(line, `\`)
			if bare := strings.TrimSpace(line); !begins || bare == "" || bare[0] == '#' || bare[0] == ';' {
				continue
			}
			switch m := assignment.FindStringSubmatch(line); {
			case m == nil:
				d.report(check, Wrong, remedy, "%s:%d: this line has no effect: it does not begin with OPTIONS=", path, i+1)
			case m[1] != "OPTIONS":
				d.report(check, Note, remedy, "%s:%d: vifproxyd is given OPTIONS only, not %s", path, i+1, m[1])
			}
		}
	}
}
