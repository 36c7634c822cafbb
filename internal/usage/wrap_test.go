package usage

import "testing"

func TestWrap(t *testing.T) {
	for _, tt := range []struct {
		line  string
		width int
		want  string
	}{
		{"one two three", 0, "one two three\n"},
		{"one two three", 80, "one two three\n"},
		{"one two three", 9, "one two\n  three\n"},
		{"      → a remedy of words", 14, "      → a\n  remedy of\n  words\n"},
		{"a-word-that-is-longer-than-a-line b", 10, "a-word-that-is-longer-than-a-line\n  b\n"},
		{"", 10, "\n"},
		{"one `two three` four", 12, "one `two\n  three`\n  four\n"},
		{"one `two six` four", 12, "one\n  `two six`\n  four\n"},
		{"one `two` (`six` or) four", 12, "one `two`\n  (`six` or)\n  four\n"},
		{"one` two three four", 12, "one` two\n  three four\n"},
	} {
		if got := Wrap(tt.line, tt.width, 2); got != tt.want {
			t.Errorf("%q in %d columns: %q, want %q", tt.line, tt.width, got, tt.want)
		}
	}
}

func TestFill(t *testing.T) {
	text := "Usage:\n    vifproxyctl check [--json] [--fix] [--tinyproxy=PATH] [--rules-dir=DIR] [--template=FILE] [FILE]\n\n" +
		"A line that is short.\n    --fix    rewrite lines that can have meant one thing only, and remove those that\n" +
		"             add nothing\n    -f       follow\n\n    #: egress CIDR\n        listed hosts may be at these addresses although they are private, by the ports that\n" +
		"        are open\n    #: include LIST\n        the lines of that list\n"
	want := "Usage:\n    vifproxyctl check [--json] [--fix] [--tinyproxy=PATH] [--rules-dir=DIR]\n        [--template=FILE] [FILE]\n\n" +
		"A line that is short.\n    --fix    rewrite lines that can have meant one thing only, and remove those\n" +
		"             that add nothing\n    -f       follow\n\n    #: egress CIDR\n        listed hosts may be at these addresses although they are private, by the\n" +
		"        ports that are open\n    #: include LIST\n        the lines of that list\n"
	if got := Fill(text); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
