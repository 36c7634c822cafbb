package review

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"vifproxy/internal/check"
	"vifproxy/internal/policy"
	"vifproxy/rules"
)

// Fixable reports whether Fix changes a line: it is in the rule file itself, and was counted for long enough. A wide line needs narrower ones.
func (r Report) Fixable(l Line, n Narrowing) bool {
	return l.Path == r.Path && l.VMs == nil && !l.Early && (l.Finding == Covered || l.Finding == Unused || l.instead(n) != nil)
}

// Fix returns the content of the rule file with the lines commented out that are covered or unused, and with the narrower lines of a
// narrowing in the place of wide ones. Every other byte stays. The error says that the file has changed since it was reviewed.
func (r Report) Fix(content []byte, n Narrowing, today time.Time) ([]byte, error) {
	edits := map[int]Line{}
	for _, l := range r.Lines {
		if r.Fixable(l, n) {
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
		for _, instead := range l.instead(n) {
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

// Lists returns the lines of a list that is in no file, as Fix would have them, without remarks.
func (r Report) Lists(lines []string, n Narrowing) (left []string) {
	for i, text := range lines {
		at := slices.IndexFunc(r.Lines, func(l Line) bool { return l.Number == i+1 && r.Fixable(l, n) })
		if at < 0 {
			left = append(left, text)
		} else {
			left = append(left, r.Lines[at].instead(n)...)
		}
	}
	return left
}

// Apply has write replace the content of the rule file by what Fix makes of it, or only reads it for a dry run. It returns the lines that
// are gone and those that are new, and what that changes.
func (r Report) Apply(template rules.Template, n Narrowing, dryRun bool, write func(change func([]byte) ([]byte, error)) error) (edits []string,
	changes []policy.Change, err error) {
	change := func(content []byte) ([]byte, error) {
		changed, err := r.Fix(content, n, time.Now())
		if err != nil || bytes.Equal(changed, content) {
			return content, err
		}
		edits = check.Edits(content, changed)
		old, _ := rules.ReadAll(r.Path, content)
		fixed, _ := rules.ReadAll(r.Path, changed)
		changes = check.Changes(template, old, fixed)
		return changed, nil
	}
	if !dryRun {
		err = write(change)
		return edits, changes, err
	}
	content, err := rules.ReadFile(r.Path)
	if err == nil {
		_, err = change(content)
	}
	return edits, changes, err
}
