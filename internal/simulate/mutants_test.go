package simulate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each mutant is a change of the code as it is: what its patch expects to find is there, once.
func TestMutantsFitTheCode(t *testing.T) {
	patches, err := filepath.Glob("mutants/*.patch")
	if err != nil || len(patches) == 0 {
		t.Fatalf("no mutants: %v", err)
	}
	for _, path := range patches {
		patch, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		hunks, code := 0, ""
		for _, file := range strings.Split("\n"+string(patch), "\n--- a/")[1:] {
			name, rest, _ := strings.Cut(file, "\n")
			text, err := os.ReadFile(filepath.Join("../..", name))
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			code = string(text)
			for _, hunk := range strings.Split(rest, "\n@@ ")[1:] {
				hunks++
				_, lines, _ := strings.Cut(hunk, "\n")
				before := ""
				for line := range strings.Lines(lines) {
					if line[0] == ' ' || line[0] == '-' {
						before += line[1:]
					} else if line == "\n" { // some editors remove the blank of an empty line
						before += line
					}
				}
				if n := strings.Count(code, before); n != 1 {
					t.Errorf("%s: %d places in %s have\n%sMake the patch again from the code as it is.", path, n, name, before)
				}
			}
		}
		if hunks == 0 {
			t.Errorf("%s changes nothing", path)
		}
	}
}
