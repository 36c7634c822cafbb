package usage

// mostMistakes is by how many letters a word may differ from the one that was meant. It may also differ by half of its letters at most.
const mostMistakes = 2

// Nearest returns the first of the known words that is nearest to word; "" if none is near.
func Nearest(word string, known []string) (nearest string) {
	least := min(mostMistakes, len(word)/2) + 1
	for _, other := range known {
		if d := distance(word, other); d < least {
			nearest, least = other, d
		}
	}
	return nearest
}

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
