package manpage

import "testing"

const help = `What it is.

Usage:
    thing [--flag] FILE...

It does
-- ` + "`that'" + ` -- and more:
    $ thing  a
    b

.dots at the start of a line, and a \.

Options, with their defaults:
    --flag=x
        the flag
        of all
    word    what it means
            goes on
Not in the list.

More:
    not a list
`

const page = `.\" Made from the program's help text: run ` + "`make man`" + ` after changing that.
.TH THING 1 "" vifproxy
.SH NAME
thing \- a thing\-y
.SH "SYNOPSIS"
.nf
.RS 4
thing [\-\-flag] FILE...
.RE
.fi
.SH "DESCRIPTION"
What it is.
.PP
It does
\-\- \(gathat\(aq \-\- and more:
.PP
.nf
.RS 4
$ thing  a
b
.RE
.fi
.PP
\&.dots at the start of a line, and a \e.
.SH "OPTIONS"
.TP
.B \-\-flag=x
the flag
of all
.TP
.B word
what it means
goes on
.PP
Not in the list.
.SH "MORE"
.nf
.RS 4
not a list
.RE
.fi
.SH "FILES"
.SS "a\-b"
text
`

func TestPage(t *testing.T) {
	p := Page{Name: "thing", Section: 1, Summary: "a thing-y"}
	p.Help(help)
	p.Head("Files")
	p.Subhead("a-b")
	p.Text("text\n")
	if got := p.String(); got != page {
		t.Errorf("got\n%s\nwant\n%s", got, page)
	}
}
