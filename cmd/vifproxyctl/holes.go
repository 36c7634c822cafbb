package main

import (
	"compress/gzip"
	"context"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
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

// hole is a published weakness of tinyproxy.
type hole struct {
	ids   []string
	last  release // that has it; all before have it too
	level string  // what it is worth here, where each AppVM has a proxy and a user id of its own
	text  string
}

// holes are from the CVE list and tinyproxy's own repository; the commit that mended each is named. To keep
// the list fresh, compare it with https://security-tracker.debian.org/tracker/source-package/tinyproxy.
var holes = []hole{
	// Talos TALOS-2023-1889; commit 12a8484 in 1.11.2.
	{[]string{"CVE-2023-49606"}, release{1, 11, 1}, levelWrong,
		"an AppVM can make its proxy use memory that was freed, and perhaps take it over"},
	// Issue 457, and once more as Talos TALOS-2023-1902; commit 3764b85 in 1.11.2.
	{[]string{"CVE-2022-40468", "CVE-2023-40533"}, release{1, 11, 1}, levelNote,
		"the error page for a malformed request can show memory of the AppVM's own proxy"},
	// Issue 586; commit 3c0fde9 in 1.11.3.
	{[]string{"CVE-2025-63938"}, release{1, 11, 2}, levelNote,
		"a port number above 65535 is taken for another one"},
	// Issue 602; commit bb7edc4.
	{[]string{"CVE-2026-3945"}, release{1, 11, 3}, levelNote,
		"an AppVM can keep connections of its own proxy busy with an overlong chunk"},
	// Issue 604; commit 879bf84.
	{[]string{"CVE-2026-31842"}, release{1, 11, 3}, levelNote,
		"an AppVM can keep connections to permitted hosts busy with `Transfer-Encoding: Chunked`"},
	// Issue 609; commits 623bfc0 and 364cdb6.
	{[]string{"CVE-2026-54387", "CVE-2026-54388"}, release{1, 11, 3}, levelNote,
		"an AppVM can hide a request to a permitted host inside another one to the same host"},
	// Pull request 606; commit 09312a1.
	{[]string{"CVE-2026-55202"}, release{1, 11, 3}, levelNote,
		"an AppVM can see the statistics of its own proxy"},
}

// fixedIn tells whether a distribution's change log says that it has mended the hole.
func (h hole) fixedIn(changes string) bool {
	return slices.ContainsFunc(h.ids, func(id string) bool { return strings.Contains(changes, id) })
}

func (h hole) remedy() string {
	if h.level == levelNote {
		return "update tinyproxy when there is one later than " + h.last.String()
	}
	return "update tinyproxy: what is later than " + h.last.String() + " does not have it"
}

// changelog is what the distribution says of its package of the program at path; "" where it says nothing.
// Distributions mend holes without changing the number of the version, and name them there.
func changelog(ctx context.Context, path string) string {
	if path != packaged {
		return ""
	}
	for _, file := range []string{"tinyproxy-bin", "tinyproxy"} { // Debian
		if text := gunzip(root + "/usr/share/doc/" + file + "/changelog.Debian.gz"); text != "" {
			return text
		}
	}
	text, _ := output(ctx, "rpm", "-q", "--changelog", "tinyproxy")
	return text
}

// maxChangelog is what is read of a change log, in bytes.
const maxChangelog = 1 << 20

func gunzip(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(unpacked, maxChangelog))
	if err != nil {
		return ""
	}
	return string(text)
}
