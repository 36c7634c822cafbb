package tinyproxy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// A Release is a version of tinyproxy: major, minor, patch.
type Release [3]int

// Oldest is the oldest release that vifproxy is made for.
var Oldest = Release{1, 10, 0}

// Before reports whether r is older than other.
func (r Release) Before(other Release) bool { return slices.Compare(r[:], other[:]) < 0 }

func (r Release) String() string { return fmt.Sprintf("%d.%d.%d", r[0], r[1], r[2]) }

var versionText = regexp.MustCompile(`^tinyproxy (\d+)\.(\d+)(?:\.(\d+))?`)

// ParseVersion reads what `tinyproxy -v` prints, see Binary.Version. Of a version between two releases
// (1.11.2-17-gabcdef) it is the earlier one, because nothing says what it has of the later.
func ParseVersion(text string) (r Release, ok bool) {
	match := versionText.FindStringSubmatch(text)
	if match == nil {
		return r, false
	}
	for i := range r {
		r[i], _ = strconv.Atoi(match[i+1]) // "" is 0
	}
	return r, true
}
