package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"testing"

	"vifproxy/internal/manpage"
)

var updatePage = flag.Bool("update", false, "write the manual page")

// The page in the package says what the program's help says, and what there is around it: `make man` makes
// it.
func TestManPage(t *testing.T) {
	var text bytes.Buffer
	if _, err := parseOptions([]string{"--help"}, &text); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	page := manpage.Page{Name: "vifproxyd", Section: 8, Summary: "filtering proxies for AppVMs"}
	page.Help(text.String())
	page.Help(around)
	const path = "../../packaging/man/vifproxyd.8"
	if *updatePage {
		if err := writeFile(path, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != page.String() {
		t.Errorf("%s is not up to date: run `make man`. It should be\n%s", path, page.String())
	}
}

const around = `Service:
In a VM of Qubes OS, vifproxyd.service starts when dom0 has turned it on for that VM:
qvm-service NAME vifproxy on. Options come from a line OPTIONS="--option ..." in
/etc/default/vifproxyd or /rw/config/vifproxyd.options; the latter takes precedence.

Services for AppVMs:
AppVMs can call these services of qrexec if the policy in dom0 lets them, see
/usr/share/doc/vifproxy/examples/30-vifproxy.policy. An AppVM asks only for itself: its
list has to have the name that the AppVM has in dom0.

    vifproxy.Denied
        prints what the AppVM's list refuses, a JSON object a line, until standard input ends:
        "time", "host", "port", "reason" (list or port), "site" (the part of the host that has
        one owner), and "browser" if browsers ask for the host without a page
    vifproxy.Allow+HOST, vifproxy.Allow+HOST+PORT
        lets the AppVM reach HOST for ten minutes, and prints a line that says so, or why not
    vifproxy.AllowAlways+HOST, vifproxy.AllowAlways+HOST+PORT
        the same for good, as "vifproxyctl allow" does

Signals:
    SIGHUP             look at everything again, and repair the firewall
    SIGTERM, SIGINT    close all AppVMs out, take everything away, and end

Files:
    /rw/config/tinyproxy/NAME.IP
        rule file of the AppVM with that address, see vifproxy-rules(5)
    /rw/config/tinyproxy/config
        template of all proxies' configuration, if there is one
    /run/vifproxy/NAME/log
        what the proxies of an AppVM say, the last of it
    /run/vifproxy/NAME/config
        the configuration that its proxy runs with
    /usr/share/doc/vifproxy
        guides, and examples of rule files and template

Exit status:
    0    after a signal
    1    after an error, which is in the log
    2    wrong usage

See also:
vifproxyctl(1), vifproxy-rules(5), tinyproxy.conf(5), tinyproxy(8)
`
