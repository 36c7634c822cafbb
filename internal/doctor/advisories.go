package doctor

import (
	"context"
	"os"
	"strings"

	"vifproxy/internal/defaults"
	"vifproxy/tinyproxy"
)

// program examines tinyproxy: is it there, and new enough.
func (d *doctor) program(ctx context.Context) {
	const check = "tinyproxy"
	binary, err := new(tinyproxy.Finder).Identify(d.setup.Tinyproxy)
	if err != nil {
		d.report(check, Wrong, "", "%v", err)
		return
	}
	text, err := binary.Version(ctx)
	if err != nil {
		remedy := "reinstall the package tinyproxy"
		if os.Geteuid() != 0 { // it is run as nobody
			remedy = "run doctor as root"
		}
		d.report(check, Wrong, remedy, "%v", err)
		return
	}
	version, ok := tinyproxy.ParseVersion(text)
	switch {
	case !ok:
		d.report(check, Note, "", "%s calls itself %q: not known which advisories are about it", binary.Path, text)
		return
	case version.Before(tinyproxy.Oldest):
		d.report(check, Wrong, "install tinyproxy 1.10 or later", "%s: %s is too old", binary.Path, text)
		return
	}
	d.report(check, OK, "", "%s: %s", binary.Path, text)
	d.advisories(version, changelog(ctx, d.Root, binary.Path))
}

// advisories reports those on a version, in a line for each level.
func (d *doctor) advisories(version tinyproxy.Release, changes string) {
	for _, level := range []Level{Wrong, Note} {
		var ids, texts []string
		var last tinyproxy.Release
		for _, a := range tinyproxy.Advisories(version, changes) {
			if a.Severe != (level == Wrong) {
				continue
			}
			ids = append(ids, a.IDs...)
			texts = append(texts, strings.Join(a.IDs, ", ")+": "+a.Effect)
			if last.Before(a.Last) {
				last = a.Last
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

// changelog returns the distribution's change log of its package of the program at path, "" if there is none. Distributions patch
// without a new version number, and name the advisories there.
func changelog(ctx context.Context, root, path string) string {
	if path != defaults.Tinyproxy {
		return ""
	}
	if text := tinyproxy.DebianChanges(root); text != "" {
		return text
	}
	text := run(ctx, "rpm", "-q", "--changelog", "tinyproxy")
	return text
}
