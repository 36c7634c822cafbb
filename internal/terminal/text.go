// Package terminal makes text safe for a terminal, and asks a terminal what it can show. AppVMs, files and web sites choose names,
// and a name can hold an escape sequence. Every program of this project shows such text by a function of this package.
//
// Text is plain if each character is a letter, a mark, a number, punctuation, a symbol or the space. So no control character is,
// and none that turns the direction of writing.
//
// Concurrency: any goroutine may call anything here.
package terminal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// IsPlain reports whether a text does nothing to a terminal and stays on its line.
func IsPlain(text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] < ' ' || text[i] > '~' {
			return utf8.ValidString(text) && !strings.ContainsFunc(text, unprintable)
		}
	}
	return true // nearly every text
}

func unprintable(r rune) bool { return !strconv.IsPrint(r) }

// Quote returns a plain text as it is, and any other as a Go string in quotation marks.
func Quote(text string) string {
	if IsPlain(text) {
		return text
	}
	return strconv.Quote(text)
}

// Escape returns a text in which each character that is not plain stands as an escape, such as \x1b. The others stay.
func Escape(text string) string {
	if IsPlain(text) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
		text = text[n:]
	}
	return b.String()
}

// ASCII returns a text in which each character that is not printable ASCII stands as an escape. So characters that look alike, that are
// wider than a column or that join the one before are told apart.
func ASCII(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case ' ' <= r && r <= '~':
			b.WriteRune(r)
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
		text = text[n:]
	}
	return b.String()
}

// OneLine returns a text in which each character that is not plain is a space.
func OneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unprintable(r) {
			return ' '
		}
		return r
	}, text)
}

// JSON returns a value as JSON, with a newline behind it, in which every character that is not plain is escaped. encoding/json
// escapes the control characters of ASCII only. Nested values are indented by indent.
func JSON(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	var plain strings.Builder
	for _, r := range b.String() {
		if r == '\n' || !unprintable(r) {
			plain.WriteRune(r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) { // RFC 8259 section 7: beyond the BMP a surrogate pair
			fmt.Fprintf(&plain, `\u%04x`, unit)
		}
	}
	return []byte(plain.String()), nil
}
