package main

import (
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// terminalWidth returns how many columns there are; 0 if w is no terminal.
func terminalWidth(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// wrap returns a line, with its end, as lines of at most width columns, where its words allow that; 0 is no limit. All but
// the first are indented.
func wrap(line string, width, indent int) string {
	var b strings.Builder
	column := 0
	for i, word := range strings.SplitAfter(line, " ") {
		length := utf8.RuneCountInString(strings.TrimSuffix(word, " "))
		if i > 0 && width > 0 && column > indent && column+length > width {
			text := strings.TrimRight(b.String(), " ")
			b.Reset()
			b.WriteString(text + "\n" + strings.Repeat(" ", indent))
			column = indent
		}
		b.WriteString(word)
		column += utf8.RuneCountInString(word)
	}
	return strings.TrimRight(b.String(), " ") + "\n"
}
