package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
	"vifproxy/rules"
)

// openPorts names the ports that a file opens in addition to those of the web.
func openPorts(file rules.File) string {
	var numbers []uint16
	for _, p := range file.Ports {
		if p.Number != 80 && p.Number != 443 {
			numbers = append(numbers, p.Number)
		}
	}
	slices.Sort(numbers)
	text := strings.Trim(fmt.Sprint(slices.Compact(numbers)), "[]")
	switch {
	case text == "":
		return ""
	case strings.Contains(text, " "):
		return "ports " + strings.ReplaceAll(text, " ", ", ")
	}
	return "port " + text
}

// printFinding shows where, what, the line with the offending text underlined, and what to do.
func printFinding(w io.Writer, f rules.Finding) error {
	var b strings.Builder
	width := terminal.Width(w)
	where := terminal.Quote(f.Path)
	if f.Line > 0 {
		where += fmt.Sprintf(":%d", f.Line)
	}
	if f.Col > 0 {
		where += fmt.Sprintf(":%d", f.Col)
	}
	b.WriteString(usage.Wrap(where+": "+terminal.Quote(f.Problem), width, 4))
	if source := strings.ReplaceAll(f.Source, "\t", " "); f.Line > 0 && source != "" {
		fmt.Fprintf(&b, "    %s\n", terminal.Quote(source))
		if from, to := f.Col-1, f.Col-1+f.Width; from >= 0 && to <= len(source) && terminal.IsPlain(source) {
			fmt.Fprintf(&b, "    %s%s\n", strings.Repeat(" ", utf8.RuneCountInString(source[:from])),
				strings.Repeat("^", max(1, utf8.RuneCountInString(source[from:to]))))
		}
	}
	if f.Admits != "" {
		fmt.Fprintf(&b, "  admits  %s\n", terminal.Quote(f.Admits))
	}
	for i, line := range f.Better {
		fmt.Fprintf(&b, "  %-6s  %s\n", map[bool]string{true: "write"}[i == 0], terminal.Quote(line))
	}
	if f.Remedy != "" && f.Better == nil {
		b.WriteString(usage.Wrap("  remedy  "+terminal.Quote(f.Remedy), width, 10))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
