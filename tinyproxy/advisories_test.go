package tinyproxy

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestAdvisories(t *testing.T) {
	severe := func(version, changes string) (ids []string) {
		release, _ := ParseVersion(version)
		for _, a := range Advisories(release, changes) {
			if a.Severe {
				ids = append(ids, a.IDs...)
			}
		}
		return ids
	}
	for version, open := range map[string]bool{
		"tinyproxy 1.10.0": true, "tinyproxy 1.11.1": true, "tinyproxy 1.11.1-12-gabcdef": true, "tinyproxy 1.9": true,
		"tinyproxy 1.11.2": false, "tinyproxy 1.11.10": false, "tinyproxy 1.12": false, "tinyproxy 2.0.0": false,
	} {
		got := strings.Join(severe(version, "  * CVE-2022-40468\n"), "\n")
		if open != strings.Contains(got, "CVE-2023-49606") || open == (got == "") {
			t.Errorf("%s: %q", version, got)
		}
	}
	for _, version := range []string{"", "something else"} {
		if r, ok := ParseVersion(version); ok {
			t.Errorf("%q is version %s", version, r)
		}
	}
	if got := severe("tinyproxy 1.11.1", "  * CVE-2023-49606 (Closes: #1070395)\n"); got != nil {
		t.Errorf("what the package has patched: %q", got)
	}
}

func TestVersion(t *testing.T) {
	for text, want := range map[string]string{
		"tinyproxy 1.11.1":             "1.11.1",
		"tinyproxy 1.11.2-17-gabcdef0": "1.11.2",
		"tinyproxy 1.10":               "1.10.0",
		"1.11.1":                       "",
		"":                             "",
		"privoxy 3.0.33":               "",
	} {
		r, ok := ParseVersion(text)
		if ok != (want != "") || ok && r.String() != want {
			t.Errorf("%q: %v, %v", text, r, ok)
		}
	}
	if !(Release{1, 9, 9}).Before(Release{1, 10, 0}) || (Release{1, 11, 1}).Before(Release{1, 11, 1}) {
		t.Error("versions are compared as text")
	}
}

// docs/security.md has the same advisories, with the same versions, and says of the same that they are warned of. It also has
// older ones, of releases that vifproxy is not made for.
func TestAdvisoriesOfTheSecurityPage(t *testing.T) {
	page, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`(?m)^\| (CVE-[^|]+) \| ([0-9.]+) \| [^|]+ \| ([^|]+) \|$`)
	var documented []string
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		last, ok := ParseVersion("tinyproxy " + m[2])
		if !ok {
			t.Errorf("no version: %s", m[0])
		}
		for id := range strings.SplitSeq(m[1], ", ") {
			i := slices.IndexFunc(advisories, func(a Advisory) bool { return slices.Contains(a.IDs, id) })
			switch {
			case i < 0 && last.Before(Oldest):
			case i < 0:
				t.Errorf("%s is on the page alone", id)
			case advisories[i].Last != last:
				t.Errorf("%s: up to %s on the page, %s here", id, last, advisories[i].Last)
			case advisories[i].Severe != strings.HasPrefix(m[3], "**warned of.**"):
				t.Errorf("%s: severe is %v here, and on the page %q", id, advisories[i].Severe, m[3])
			}
			documented = append(documented, id)
		}
	}
	for _, a := range advisories {
		for _, id := range a.IDs {
			if !slices.Contains(documented, id) {
				t.Errorf("%s is not on the page", id)
			}
		}
	}
}
