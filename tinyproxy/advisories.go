package tinyproxy

import (
	"slices"
	"strings"
)

// An Advisory is a published weakness of tinyproxy.
type Advisory struct {
	IDs    []string
	Last   Release // that has it; all before have it too
	Severe bool    // an AppVM gets more by it than the denial of its own service
	Effect string
}

// advisories are from the CVE list and from tinyproxy's own repository. Each names the commit that fixed it. To keep the list
// up to date, compare it with https://security-tracker.debian.org/tracker/source-package/tinyproxy. docs/security.md says what
// each means here, where each AppVM has its own proxy and user id.
var advisories = []Advisory{
	// Use after free in remove_connection_headers of src/reqs.c. Talos TALOS-2023-1889; commit 12a8484 in 1.11.2.
	{[]string{"CVE-2023-49606"}, Release{1, 11, 1}, true,
		"an AppVM can make its proxy use memory that was freed, and perhaps take it over"},
	// Issue 457, and once more as Talos TALOS-2023-1902; commit 3764b85 in 1.11.2.
	{[]string{"CVE-2022-40468", "CVE-2023-40533"}, Release{1, 11, 1}, false,
		"the error page for a malformed request can show memory of the AppVM's own proxy"},
	// Issue 586; commit 3c0fde9 in 1.11.3.
	{[]string{"CVE-2025-63938"}, Release{1, 11, 2}, false,
		"a port number above 65535 is taken for another one"},
	// Issue 602; commit bb7edc4.
	{[]string{"CVE-2026-3945"}, Release{1, 11, 3}, false,
		"an AppVM can keep connections of its own proxy busy with an overlong chunk"},
	// Issue 604; commit 879bf84.
	{[]string{"CVE-2026-31842"}, Release{1, 11, 3}, false,
		"an AppVM can keep connections to permitted hosts busy with `Transfer-Encoding: Chunked`"},
	// Issue 609; commits 623bfc0 and 364cdb6.
	{[]string{"CVE-2026-54387", "CVE-2026-54388"}, Release{1, 11, 3}, false,
		"an AppVM can hide a request to a permitted host inside another one to the same host"},
	// Pull request 606; commit 09312a1.
	{[]string{"CVE-2026-55202"}, Release{1, 11, 3}, false,
		"an AppVM can see the statistics of its own proxy"},
}

// Advisories returns those on a release that the change log of its package does not name. A distribution patches without a new
// version number, and names the advisory in its change log.
func Advisories(version Release, changes string) (open []Advisory) {
	for _, a := range advisories {
		patched := slices.ContainsFunc(a.IDs, func(id string) bool { return strings.Contains(changes, id) })
		if !a.Last.Before(version) && !patched {
			open = append(open, a)
		}
	}
	return open
}
