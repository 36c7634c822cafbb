package tinyproxy

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Printable returns a line as text that does nothing to a terminal.
func Printable(raw []byte) string {
	if !bytes.ContainsFunc(raw, func(r rune) bool { return r < ' ' || r > '~' }) {
		return string(raw) // nearly every line
	}
	var b strings.Builder
	for len(raw) > 0 {
		r, n := utf8.DecodeRune(raw)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, raw[0])
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
		raw = raw[n:]
	}
	return b.String()
}
