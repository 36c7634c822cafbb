package screen

import (
	"strings"

	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// Word returns a text that others chose so that it is one word of printable ASCII, and cannot be taken for the next column.
func Word(text string) string {
	if plain := terminal.ASCII(text); plain == text && !strings.Contains(text, " ") {
		return text
	}
	return strings.ReplaceAll(terminal.ASCII(`"`+strings.ReplaceAll(text, `"`, `\"`)+`"`), " ", `\x20`)
}

// Fit returns a text of width columns: with spaces behind it, or cut at its end.
func Fit(text string, width int) string {
	switch text = terminal.ASCII(text); {
	case len(text) <= width:
		return text + strings.Repeat(" ", width-len(text))
	case width < 3:
		return text[:max(width, 0)]
	}
	return text[:width-2] + ".."
}

// FitHost is Fit, and cuts at the beginning: the end of a host name says whose it is.
func FitHost(host string, width int) string {
	if host = Word(host); len(host) > width && width >= 3 {
		return ".." + host[len(host)-width+2:]
	}
	return Fit(host, width)
}

// Wrapped returns a text as lines of a screen that is width columns wide.
func Wrapped(text string, width int) (lines []Line) {
	for line := range strings.Lines(text) {
		for part := range strings.Lines(usage.Wrap(terminal.ASCII(strings.TrimRight(line, "\n")), width, 4)) {
			part = strings.TrimRight(part, "\n")
			for width > 0 && len(part) > width { // a word that is longer than a line
				lines, part = append(lines, Line{Text: part[:width]}), part[width:]
			}
			lines = append(lines, Line{Text: part})
		}
	}
	return lines
}

// Window returns the first of count rows to show in height rows, so that the marked one is among them: the one that was the first, if
// that is possible. No row is marked if marked is negative.
func Window(first, marked, count, height int) int {
	if marked >= 0 {
		first = max(min(first, marked), marked-height+1)
	}
	return max(min(first, count-height), 0)
}
