package tinyproxy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// hole is a known flaw of tinyproxy that matters here: one by which an AppVM gets more than denial of its own
// service. docs/security.md has all, and why the others are not here.
type hole struct{ id, mended, what string }

var holes = []hole{
	// Use after free in remove_connection_headers of src/reqs.c.
	{"CVE-2023-49606", "1.11.2", "an AppVM may run code in its own proxy"},
}

// Holes says what is known to be open in a tinyproxy that calls itself so, see Binary.Version, but for what the change log of
// its package names: distributions patch without a new version.
func Holes(version, changes string) (known []string) {
	number := numbers(strings.TrimPrefix(version, "tinyproxy "))
	for _, h := range holes {
		if number != nil && !strings.Contains(changes, h.id) && slices.Compare(number, numbers(h.mended)) < 0 {
			known = append(known, fmt.Sprintf("%s, unless the package has the patch: %s; mended in %s", h.id, h.what, h.mended))
		}
	}
	return known
}

// numbers splits a version such as 1.11.1 or 1.11.2-git-3-gabc; what is no number ends it.
func numbers(version string) (all []int) {
	version, _, _ = strings.Cut(cmp.Or(version, "?"), "-")
	for part := range strings.SplitSeq(version, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return all
		}
		all = append(all, n)
	}
	return all
}
