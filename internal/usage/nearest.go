package usage

import (
	"regexp"
	"slices"
)

// mistakesMax is by how many letters a word may differ from the one that was meant. It may also differ by half of its letters at most.
const mistakesMax = 2

// Nearest returns the first of the known words that is nearest to word; "" if none is near.
func Nearest(word string, known []string) (nearest string) {
	least := min(mistakesMax, len(word)/2) + 1
	for _, other := range known {
		if d := distance(word, other); d < least {
			nearest, least = other, d
		}
	}
	return nearest
}

// NearestName returns the known name of a VM that a person meant: one that was typed with its address, as its file is named, or that is
// nearest; "" if none is. A name may be hostile: a long one is not compared.
func NearestName(typed string, known []string) string {
	if len(typed) > longestName {
		return ""
	}
	if addressed := withAddress.FindStringSubmatch(typed); addressed != nil {
		typed = addressed[1]
	}
	if slices.Contains(known, typed) {
		return typed
	}
	return Nearest(typed, known)
}

// longestName is how long a name is, with its address, that is compared with others.
const longestName = 64

// withAddress matches the name of a VM with its address behind it, or with one that was meant.
var withAddress = regexp.MustCompile(`^(.+?)(\.[0-9]{1,3}){4}$`)

// distance returns how many bytes must be inserted, removed or replaced to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1) // from the part of a seen so far to every beginning of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
