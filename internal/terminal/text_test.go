package terminal

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

const hostile = "a\x1b[2J\n\t\u009b31m\u202e\u2028\U000e0041\x7f\"\\ü漢"

func TestText(t *testing.T) {
	for _, tt := range []struct{ text, quoted, escaped, line string }{
		{"", "", "", ""},
		{`plain "text" \ ü漢`, `plain "text" \ ü漢`, `plain "text" \ ü漢`, `plain "text" \ ü漢`},
		{"\x1b[2J\"", `"\x1b[2J\""`, `\x1b[2J"`, ` [2J"`},
		{"a\nb", `"a\nb"`, `a\nb`, "a b"},
		{"\xff", `"\xff"`, `\xff`, "\uFFFD"},
		{"\u202e\u00a0", `"\u202e\u00a0"`, `\u202e\u00a0`, "  "},
	} {
		if got := Quote(tt.text); got != tt.quoted {
			t.Errorf("Quote(%q) is %s", tt.text, got)
		}
		if got := Escape(tt.text); got != tt.escaped {
			t.Errorf("Escape(%q) is %s", tt.text, got)
		}
		if got := OneLine(tt.text); got != tt.line {
			t.Errorf("OneLine(%q) is %q", tt.text, got)
		}
	}
}

// Whatever the text is, what is shown is plain. What is plain stays as it is, and JSON means what it meant.
func FuzzText(f *testing.F) {
	for _, text := range []string{"", hostile, "\xff\xfe", "plain", "\u00ad\ufeff", `\x1b`, "\U0010ffff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		plain := utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) })
		if IsPlain(text) != plain {
			t.Errorf("IsPlain(%q) is %v", text, !plain)
		}
		for what, show := range map[string]func(string) string{"Quote": Quote, "Escape": Escape, "OneLine": OneLine} {
			shown := show(text)
			if !IsPlain(shown) || plain && shown != text || show(shown) != shown {
				t.Errorf("%s(%q) is %q", what, text, shown)
			}
		}
		encoded, err := JSON([]string{text}, "  ")
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Split(strings.TrimSuffix(string(encoded), "\n"), "\n"); len(lines) != 3 || !IsPlain(lines[1]) {
			t.Errorf("JSON of %q is %q", text, encoded)
		}
		var back []string
		if err := json.Unmarshal(encoded, &back); err != nil || utf8.ValidString(text) && back[0] != text {
			t.Errorf("JSON of %q gave %q, %v", text, back, err)
		}
	})
}
