package usage

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Wrap breaks a line into lines of at most width columns, if its words allow that; a width of 0 is no limit. All lines but the first are
// indented. Text in backquotes, which is to be copied, stays on one line if it fits.
func Wrap(line string, width, indent int) string {
	var b strings.Builder
	column := 0
	for i, word := range wholes(line, width-indent) {
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

// wholes splits a line after its blanks. It does not split text in backquotes of at most width columns.
func wholes(line string, width int) (words []string) {
	quoted := false
	for _, word := range strings.SplitAfter(line, " ") {
		last := len(words) - 1
		if quoted && utf8.RuneCountInString(words[last]+word) <= width {
			words[last] += word
		} else {
			words, quoted = append(words, word), false
		}
		if strings.Count(word, "`")%2 == 1 {
			quoted = !quoted
		}
	}
	return words
}

// Width is the width of help texts. Every terminal has 80 columns.
const Width = 80

var (
	entry     = regexp.MustCompile(`^( *)(\S.*?)(  +)(\S.*)$`) // a word and, behind two blanks, what it means
	beginning = regexp.MustCompile(`^ *`)
)

// Fill wraps the paragraphs and entries of a text that have a line of more than Width columns again. The others stay as they are.
func Fill(text string) string {
	var b strings.Builder
	var block []string
	hang := 0      // where lines of block after its first one begin
	joins := false // lines that begin there go on with block
	last := 0      // where the line before begins
	flush := func() {
		if len(block) == 0 {
			return
		}
		tooLong := slices.ContainsFunc(block, func(line string) bool { return utf8.RuneCountInString(line) > Width })
		if !tooLong {
			b.WriteString(strings.Join(block, "\n") + "\n")
		} else {
			for i := range block[1:] {
				block[i+1] = strings.TrimLeft(block[i+1], " ")
			}
			b.WriteString(Wrap(strings.Join(block, " "), Width, hang))
		}
		block = nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		indent := len(beginning.FindString(line))
		switch {
		case line == "":
			flush()
			b.WriteString("\n")
			last = 0
			continue
		case len(block) > 0 && joins && indent == hang:
			block = append(block, line)
			continue
		}
		flush()
		block, hang, joins = []string{line}, indent, true
		if m := entry.FindStringSubmatch(line); m != nil && indent > 0 {
			hang = len(m[1]) + len(m[2]) + len(m[3])
		} else if meaning := last > 0 && indent > last; indent > 0 && !meaning { // a synopsis, a command, or a word whose meaning follows
			hang, joins = indent+4, false
		}
		last = indent
	}
	flush()
	return b.String()
}
