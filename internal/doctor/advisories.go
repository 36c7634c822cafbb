package doctor

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"vifproxy/internal/defaults"
	"vifproxy/tinyproxy"
)

// release is a version of tinyproxy.
type release [3]int

func (r release) before(other release) bool { return slices.Compare(r[:], other[:]) < 0 }

func (r release) String() string {
	return strconv.Itoa(r[0]) + "." + strconv.Itoa(r[1]) + "." + strconv.Itoa(r[2])
}

var versionText = regexp.MustCompile(`^tinyproxy (\d+)\.(\d+)(?:\.(\d+))?`)

// parseVersion reads what `tinyproxy -v` prints. Of a version between two releases (1.11.2-17-gabcdef) it is
// the earlier one, since nothing tells what it has of the later.
func parseVersion(text string) (r release, ok bool) {
	match := versionText.FindStringSubmatch(text)
	if match == nil {
		return r, false
	}
	for i := range r {
		r[i], _ = strconv.Atoi(match[i+1]) // "" is 0
	}
	return r, true
}

// advisory is a published weakness of tinyproxy.
type advisory struct {
	ids   []string
	last  release // that has it; all before have it too
	level Level   // what it is worth here, where each AppVM has a proxy and a user id of its own
	text  string
}

// advisories are from the CVE list and tinyproxy's own repository; the commit that mended each is named. To keep
// the list fresh, compare it with https://security-tracker.debian.org/tracker/source-package/tinyproxy.
var advisories = []advisory{
	// Talos TALOS-2023-1889; commit 12a8484 in 1.11.2.
	{[]string{"CVE-2023-49606"}, release{1, 11, 1}, Wrong,
		"an AppVM can make its proxy use memory that was freed, and perhaps take it over"},
	// Issue 457, and once more as Talos TALOS-2023-1902; commit 3764b85 in 1.11.2.
	{[]string{"CVE-2022-40468", "CVE-2023-40533"}, release{1, 11, 1}, Note,
		"the error page for a malformed request can show memory of the AppVM's own proxy"},
	// Issue 586; commit 3c0fde9 in 1.11.3.
	{[]string{"CVE-2025-63938"}, release{1, 11, 2}, Note,
		"a port number above 65535 is taken for another one"},
	// Issue 602; commit bb7edc4.
	{[]string{"CVE-2026-3945"}, release{1, 11, 3}, Note,
		"an AppVM can keep connections of its own proxy busy with an overlong chunk"},
	// Issue 604; commit 879bf84.
	{[]string{"CVE-2026-31842"}, release{1, 11, 3}, Note,
		"an AppVM can keep connections to permitted hosts busy with `Transfer-Encoding: Chunked`"},
	// Issue 609; commits 623bfc0 and 364cdb6.
	{[]string{"CVE-2026-54387", "CVE-2026-54388"}, release{1, 11, 3}, Note,
		"an AppVM can hide a request to a permitted host inside another one to the same host"},
	// Pull request 606; commit 09312a1.
	{[]string{"CVE-2026-55202"}, release{1, 11, 3}, Note,
		"an AppVM can see the statistics of its own proxy"},
}

// patchedIn reports whether a distribution's change log names one of its numbers: the package has the patch then.
func (a advisory) patchedIn(changes string) bool {
	return slices.ContainsFunc(a.ids, func(id string) bool { return strings.Contains(changes, id) })
}

// program looks at tinyproxy.
func (d *doctor) program() {
	const check = "tinyproxy"
	binary, err := tinyproxy.Identify(d.setup.Tinyproxy)
	if err != nil {
		d.report(check, Wrong, "", "%v", err)
		return
	}
	text, err := binary.Version(d.ctx)
	if err != nil {
		remedy := "reinstall the package tinyproxy"
		if os.Geteuid() != 0 { // it is run as nobody
			remedy = "run doctor as root"
		}
		d.report(check, Wrong, remedy, "%v", err)
		return
	}
	version, ok := parseVersion(text)
	switch {
	case !ok:
		d.report(check, Note, "", "%s calls itself %q: not known which advisories are about it", binary.Path, text)
		return
	case version.before(release{1, 10, 0}):
		d.report(check, Wrong, "install tinyproxy 1.10 or later", "%s: %s is too old", binary.Path, text)
		return
	}
	d.report(check, OK, "", "%s: %s", binary.Path, text)
	d.advisories(version, changelog(d.ctx, d.Root, binary.Path))
}

// advisories names those that a version has and the distribution's change log does not, in a line for each level.
func (d *doctor) advisories(version release, changes string) {
	for _, level := range []Level{Wrong, Note} {
		var ids, texts []string
		var last release
		for _, a := range advisories {
			if a.level != level || a.last.before(version) || a.patchedIn(changes) {
				continue
			}
			ids = append(ids, a.ids...)
			texts = append(texts, strings.Join(a.ids, ", ")+": "+a.text)
			if last.before(a.last) {
				last = a.last
			}
		}
		if len(ids) == 0 {
			continue
		}
		remedy := "update tinyproxy: what is later than " + last.String() + " does not have it"
		text := "advisories on this version: %s; by these an AppVM harms its own proxy, or sites that it may reach anyway"
		if level == Wrong {
			text = "advisories on this version: %s; by these an AppVM may take its own proxy over"
		} else {
			remedy = "update tinyproxy when there is one later than " + last.String()
		}
		if changes == "" {
			remedy += "; the distribution may have patched it: no change log tells"
		}
		d.report("tinyproxy", level, remedy+"; --verbose tells more", text, strings.Join(ids, ", "))
		d.findings[len(d.findings)-1].Details = texts
	}
}

// changelog is what the distribution says of its package of the program at path; "" where it says nothing.
// Distributions patch without changing the number of the version, and name advisories there.
func changelog(ctx context.Context, root, path string) string {
	if path != defaults.Tinyproxy {
		return ""
	}
	if text := tinyproxy.DebianChanges(root); text != "" {
		return text
	}
	text, _ := run(ctx, "rpm", "-q", "--changelog", "tinyproxy")
	return text
}
