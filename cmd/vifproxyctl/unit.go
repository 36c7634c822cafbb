package main

import (
	"os"
	"regexp"
	"strings"
)

// lastError returns what the journal has as the last error of vifproxyd; "" if there is none.
func (d *doctor) lastError() string {
	text, _ := output(d.ctx, "journalctl", "--unit=vifproxyd", "--priority=err", "--lines=1", "--output=cat", "--no-pager", "--quiet")
	return strings.TrimSpace(text)
}

// optionFiles are where the unit takes the options of vifproxyd from (EnvironmentFile= in packaging/vifproxyd.service).
var optionFiles = []string{"/etc/default/vifproxyd", "/rw/config/vifproxyd.options"}

// assignment is a line that systemd takes (systemd.exec(5), EnvironmentFile=).
var assignment = regexp.MustCompile(`^[ \t]*([A-Za-z_][A-Za-z0-9_]*)=`)

// options finds lines in these files that have no effect: systemd ignores what is no assignment.
func (d *doctor) options() {
	const check, remedy = "options", `write OPTIONS="--option ...", all options in one line`
	for _, path := range optionFiles {
		text, _ := os.ReadFile(root + path)
		continued := false
		for i, line := range strings.Split(string(text), "\n") {
			begins := !continued
			continued = strings.HasSuffix(line, `\`)
			if bare := strings.TrimSpace(line); !begins || bare == "" || bare[0] == '#' || bare[0] == ';' {
				continue
			}
			switch m := assignment.FindStringSubmatch(line); {
			case m == nil:
				d.tell(check, levelWrong, remedy, "%s:%d: this line has no effect: it does not begin with OPTIONS=", path, i+1)
			case m[1] != "OPTIONS":
				d.tell(check, levelNote, remedy, "%s:%d: vifproxyd is given OPTIONS only, not %s", path, i+1, m[1])
			}
		}
	}
}
