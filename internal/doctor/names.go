package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// resolver looks for the process that answers the proxies' questions for names, and whether it is locked in.
func (d *doctor) resolver() {
	const check = "names"
	if d.status == nil || d.setup.Names.UID == 0 {
		return
	}
	found, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range found {
		text, _ := os.ReadFile(path) // it may have ended
		status := string(text)
		pid := filepath.Base(filepath.Dir(path))
		switch {
		case !strings.Contains(status, fmt.Sprintf("\nUid:\t%d\t", d.setup.Names.UID)):
			continue
		case strings.Contains(status, "\nNoNewPrivs:\t1\n") && strings.Contains(status, "\nSeccomp:\t2\n"):
			d.report(check, OK, "", "vifproxy-names answers the proxies' questions for names, confined (process %s)", pid)
		default:
			d.report(check, Note, "see what `vifproxyctl doctor` says of the confinement of proxies: the resolver has the same",
				"vifproxy-names answers the proxies' questions for names, and is not confined by seccomp (process %s)", pid)
		}
		return
	}
	d.report(check, Wrong, "see what it says: journalctl -u vifproxyd; reinstall vifproxy if its program is damaged",
		"no vifproxy-names runs: names are not answered, and no page opens that was not open before")
}
