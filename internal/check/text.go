package check

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
	"vifproxy/rules/lint"
)

// Text returns findings for a terminal of this width; 0 is none.
func Text(findings []lint.Finding, width int) string {
	var b strings.Builder
	for _, f := range findings {
		writeFinding(&b, f, width)
	}
	return b.String()
}

// writeFinding writes where, what, the line with the offending text underlined, and what to do.
func writeFinding(b *strings.Builder, f lint.Finding, width int) {
	where := terminal.Quote(f.Path)
	if f.Line > 0 {
		where += fmt.Sprintf(":%d", f.Line)
	}
	if f.Col > 0 {
		where += fmt.Sprintf(":%d", f.Col)
	}
	b.WriteString(usage.Wrap(where+": "+terminal.Quote(f.Problem), width, 4))
	if source := strings.ReplaceAll(f.Source, "\t", " "); f.Line > 0 && source != "" {
		fmt.Fprintf(b, "    %s\n", terminal.Quote(source))
		if from, to := f.Col-1, f.Col-1+f.Width; from >= 0 && to <= len(source) && terminal.IsPlain(source) {
			fmt.Fprintf(b, "    %s%s\n", strings.Repeat(" ", utf8.RuneCountInString(source[:from])),
				strings.Repeat("^", max(1, utf8.RuneCountInString(source[from:to]))))
		}
	}
	if f.Admits != "" {
		fmt.Fprintf(b, "  admits  %s\n", terminal.Quote(f.Admits))
	}
	label := "write"
	for _, line := range f.Better {
		fmt.Fprintf(b, "  %-6s  %s\n", label, terminal.Quote(line))
		label = ""
	}
	if f.Remedy != "" && f.Better == nil {
		b.WriteString(usage.Wrap("  remedy  "+terminal.Quote(f.Remedy), width, 10))
	}
}
