package lint

import (
	"bytes"
	"maps"
	"slices"
	"strings"
)

// Fix rewrites the lines of a rule file whose meaning is clear, and makes none permit more than it did. A file that was refused
// may become valid by it. Comments, blank lines and line ends stay.
func (l Linter) Fix(path string, content []byte) []byte {
	for range 4 { // a line that one round has narrowed may be covered by another line in the next
		byLine := map[int]Finding{}
		for _, f := range l.File(path, content) {
			if _, twice := byLine[f.Line]; f.Fixable && f.Path == path && !twice {
				byLine[f.Line] = f
			}
		}
		if len(byLine) == 0 {
			break
		}
		// Lines that are covered by one that changes in this round wait for the next.
		narrowed := slices.ContainsFunc(slices.Collect(maps.Values(byLine)), func(f Finding) bool { return f.Better != nil })
		var b bytes.Buffer
		number := 0
		for line := range bytes.Lines(content) {
			number++
			f, found := byLine[number]
			if !found || narrowed && f.Better == nil {
				b.Write(line)
				continue
			}
			b.WriteString(f.rewrite(string(line)))
		}
		content = b.Bytes()
	}
	return content
}

// rewrite returns a line, end included, with Better in the place of its entry.
func (f Finding) rewrite(line string) string {
	before, after, _ := strings.Cut(line, f.entry)
	body := strings.TrimRight(after, "\r\n")
	end := after[len(body):]
	if f.Better == nil {
		if comment := strings.TrimLeft(body, " \t"); comment != "" {
			return before + comment + end
		}
		if strings.HasPrefix(before, "\ufeff") {
			return "\ufeff"
		}
		return ""
	}
	text := before + f.Better[0] + body
	for _, more := range f.Better[1:] {
		text += lineEnd(end) + more
	}
	return text + end
}

func lineEnd(end string) string {
	if end == "" {
		return "\n"
	}
	return end
}
