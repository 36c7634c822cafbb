package usage

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Aligned returns rows of a table with their cells below each other.
func Aligned(rows [][]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush() // an error cannot come of memory
	return b.String()
}
