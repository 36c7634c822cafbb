package review

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// Fixable reports whether Fix changes a line: it is in the rule file itself, and was counted for long enough. Wide lines are changed
// only with narrow.
func (r Report) Fixable(l Line, narrow bool) bool {
	return l.Path == r.Path && l.VMs == nil && !l.Early && (l.Finding == Covered || l.Finding == Unused || l.Finding == Wide && narrow)
}

// Fix returns the content of the rule file with the lines commented out that are covered or unused, and with narrow, narrower lines in the
// place of wide ones. Every other byte stays. The error says that the file has changed since it was reviewed.
func (r Report) Fix(content []byte, narrow bool, today time.Time) ([]byte, error) {
	edits := map[int]Line{}
	for _, l := range r.Lines {
		if r.Fixable(l, narrow) {
			edits[l.Number] = l
		}
	}
	var b bytes.Buffer
	number := 0
	for line := range bytes.Lines(content) {
		number++
		l, edited := edits[number]
		if !edited {
			b.Write(line)
			continue
		}
		text := strings.TrimRight(string(line), "\r\n")
		end := string(line[len(text):])
		text, marked := strings.CutPrefix(text, "\ufeff")
		if text = strings.Trim(text, " \t"); text != l.Text {
			return nil, fmt.Errorf("%s has changed meanwhile: review it again", r.Path)
		}
		delete(edits, number)
		if marked {
			b.WriteString("\ufeff")
		}
		fmt.Fprintf(&b, "# %s, %s: %s%s", l.Finding, today.Format(time.DateOnly), text, end)
		for _, instead := range l.Instead {
			if end == "" { // the last line of the file has none
				b.WriteString("\n" + instead)
			} else {
				b.WriteString(instead + end)
			}
		}
	}
	if len(edits) > 0 {
		return nil, fmt.Errorf("%s has changed meanwhile: review it again", r.Path)
	}
	return b.Bytes(), nil
}
