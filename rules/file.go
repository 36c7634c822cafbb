package rules

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxSize bounds rule files and templates, in bytes: a rule file of this size is a mistake, not a policy.
	maxSize = 1 << 20

	// maxLine is what tinyproxy reads of a line at once, in bytes (fgets of FILTER_BUFFER_LEN 512 in
	// src/filter.c); the rest would become a pattern of its own.
	maxLine = 511
)

// A File is a rule file that was read without an error: what one AppVM may reach, or, if the template says
// so, what it may not.
type File struct {
	Name string     // of the AppVM
	Addr netip.Addr // of the AppVM, IPv4
	Path string

	// Empty tells that there is no byte in it: what one revokes everything with, and also what a shell's > or an
	// editor that writes in place leaves for a moment.
	Empty bool

	// Egress is what the AppVM's proxy may connect to besides public addresses at the usual ports.
	Egress []Egress

	// Ports are open for this AppVM, besides those that the template opens for all: for each host that it may reach, as
	// tinyproxy cannot tie a port to a host. A number may be there more than once, from several lines.
	Ports []Port

	sum        [sha256.Size]byte // of the content
	entries    []Line            // patterns as written, or canonical host names
	domains    bool              // whether they are names
	formatLine int               // the line that says so, or says the contrary
	almost     Line              // the first comment that was meant to say so, and what it should be
}

// Names reports whether the file says "#: format domains".
func (f File) Names() bool { return f.domains }

// Same tells whether the other file is the same in every byte, and in the same place.
func (f File) Same(other File) bool { return f.Path == other.Path && f.sum == other.sum }

// Unwritten reports whether a file has neither entries nor a format, so that it can begin with either.
func (f File) Unwritten() bool {
	return len(f.entries) == 0 && f.formatLine == 0 && len(f.Egress)+len(f.Ports) == 0
}

// A Port is one that a line opens.
type Port struct {
	Number uint16
	Line   int    // of the rule file
	Text   string // of that line, as it stands
}

// MostPorts is how many different ports a list may open: each is an element of the fence, a rule of Landlock and a line
// for tinyproxy.
const MostPorts = 32

// A Line is one line of what tinyproxy is given to read.
type Line struct {
	Text string // one pattern, without blanks or comments; at most 511 bytes
	Line int    // the line of the rule file that it comes from

	// Source is the line as it stands in the rule file, comment included, without the blanks around it. It is empty for a line
	// that comes from none.
	Source string

	port uint16 // in a list of names, what is opened with the host; 0 if none
}

// Language is the kind of pattern that tinyproxy takes a filter line for.
type Language int

const (
	Basic    Language = iota // POSIX basic regular expressions: tinyproxy's default, or FilterType bre
	Extended                 // FilterExtended, or FilterType ere
	Fnmatch                  // FilterType fnmatch
)

// A Syntax is how the template makes tinyproxy read filter lines.
type Syntax struct {
	Language      Language
	CaseSensitive bool // FilterCaseSensitive; Fnmatch is case-sensitive with or without it
	URLs          bool // FilterURLs: lines are compared with the whole URL
	Forbid        bool // FilterDefaultDeny No: lines are what is forbidden, and a narrower line permits more
}

// narrows reports whether lines are compiled to extended expressions that match host names only. With FilterURLs they
// match more than a host, and a black list must not forbid less than it says.
func (s Syntax) narrows() bool { return !s.Forbid && !s.URLs }

// compiled returns the syntax of what Lines returns.
func (s Syntax) compiled() Syntax {
	if s.narrows() {
		s.CaseSensitive = s.CaseSensitive || s.Language == Fnmatch
		s.Language = Extended
	}
	return s
}

// Lines returns what tinyproxy has to read for the file, in the file's order. The lines of a white list are extended
// expressions that match host names only, whatever the template's language; a line that matches no host name is left
// out. Other patterns stay as they are written. Host names are compiled for the template's language. Errors are of
// type *Error.
func (f File) Lines(s Syntax) ([]Line, error) {
	if !f.domains && !s.narrows() {
		return slices.Clone(f.entries), nil
	}
	if !f.domains {
		lines := make([]Line, 0, len(f.entries))
		for _, entry := range f.entries {
			n, flaw := s.narrow(entry.Text)
			if flaw != nil {
				flaw.Path, flaw.Line = f.Path, max(entry.Line, 0)
				return nil, flaw
			}
			if n.text != "" {
				lines = append(lines, Line{Text: n.text, Line: entry.Line, Source: entry.Source})
			}
		}
		return lines, nil
	}
	if s.URLs {
		return nil, &Error{
			Path:   f.Path,
			Line:   f.formatLine,
			Text:   "names cannot be compared with whole URLs, which FilterURLs in the template `config` asks for",
			Remedy: "remove FilterURLs from the template `config`, or write patterns instead of names",
		}
	}
	var lines []Line
	for _, entry := range f.entries {
		if entry.port != 0 && s.Forbid {
			return nil, &Error{
				Path:   f.Path,
				Line:   entry.Line,
				Text:   excerpt(entry.written()) + " has a port, and a black list forbids a host at all ports",
				Remedy: "write the host alone",
			}
		}
		for _, text := range s.compiled().compile(entry.Text) {
			if len(text) > maxLine {
				return nil, &Error{
					Path:   f.Path,
					Line:   entry.Line,
					Text:   excerpt(entry.Text) + " is too long to be compared without regard to case",
					Remedy: "remove FilterCaseSensitive or FilterType fnmatch from the template `config`",
				}
			}
			lines = append(lines, Line{Text: text, Line: entry.Line, Source: entry.Source})
		}
	}
	return lines, nil
}

// ParseFile reads the content of a rule file. The file's name says whom it is for. Errors are of type *Error;
// the first one is reported.
//
// The idea is that a file means what a person sees in it, or is refused. tinyproxy reads a line in C buffers:
// it cuts a pattern at the first white space, at a '#' and at a NUL, and a long line into several. Where that
// gives another pattern than the line shows, there is an error; where it gives the same (blanks around a
// pattern, a comment after it, CRLF line ends, which are white space to tinyproxy) there is none.
func ParseFile(path string, content []byte) (File, error) {
	name, addr, err := ParseFileName(path)
	if err != nil {
		return File{}, err
	}
	if !addr.IsValid() {
		return File{}, notRuleFile(path)
	}
	if len(content) > maxSize {
		return File{}, tooLarge(path)
	}
	f := File{Name: name, Addr: addr, Path: path, Empty: len(content) == 0, sum: sha256.Sum256(content)}
	for i, line := range sourceLines(content) {
		if flaw := f.add(line, i+1); flaw != nil {
			flaw.Path, flaw.Line = path, i+1
			return File{}, flaw
		}
	}
	return f, nil
}

// sourceLines splits a file, or a template, as a person sees it.
func sourceLines(content []byte) []string {
	// An editor shows no byte order mark; tinyproxy would take it for the beginning of the first pattern.
	lines := strings.Split(strings.TrimPrefix(string(content), "\ufeff"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSuffix(line, "\r")
	}
	return lines
}

// add takes in one line. The error, if any, lacks path and line.
func (f *File) add(line string, number int) *Error {
	if flaw := invisible(line); flaw != nil {
		return flaw
	}
	if len(line) > maxLine {
		return &Error{
			Col:    maxLine + 1,
			Text:   fmt.Sprintf("%d bytes in a line; tinyproxy would split it after %d", len(line), maxLine),
			Remedy: "make two lines of it",
		}
	}
	text := strings.Trim(line, " \t")
	if directive, ok := strings.CutPrefix(text, "#:"); ok {
		words := strings.Fields(directive)
		flaw := f.direct(words, number, text)
		if meant := directiveMeant(text); flaw != nil && meant != "" && meant != "#: "+strings.Join(words, " ") {
			flaw.Remedy = "write " + meant
		}
		if flaw != nil && (len(words) == 2 || len(words) > 2 && words[0] != "port") {
			flaw.Col = strings.LastIndex(line, words[len(words)-1]) + 1
		}
		return flaw
	}
	if text == "" || text[0] == '#' {
		if meant := directiveMeant(line); meant != "" && f.almost.Line == 0 {
			f.almost = Line{Text: meant, Line: number, Source: text}
		}
		return nil
	}
	entry, flaw := entryOf(line)
	if flaw != nil {
		if f.domains && flaw.twoWords {
			flaw.Text, flaw.Remedy = "more than one name in "+excerpt(text), "write one name a line; a comment begins with '#'"
		}
		return flaw
	}
	if !f.domains {
		f.entries = append(f.entries, Line{Text: entry, Line: number, Source: text})
		return plain(entry)
	}
	host, flaw := parseEntry(entry)
	if meant := NamesMeant(entry); flaw != nil && meant != nil {
		flaw.Remedy = "write " + strings.Join(meant, " and ")
	}
	if flaw == nil && host.Port != 0 {
		flaw = f.open(Port{Number: host.Port, Line: number, Text: text})
	}
	f.entries = append(f.entries, Line{Text: host.entry(), Line: number, Source: text, port: host.Port})
	return flaw
}

// open takes in a port that a line opens.
func (f *File) open(p Port) *Error {
	different := map[uint16]bool{p.Number: true}
	for _, other := range f.Ports {
		different[other.Number] = true
	}
	if len(different) > MostPorts {
		return &Error{Text: fmt.Sprintf("more than %d different ports", MostPorts), Remedy: "open those that are needed"}
	}
	f.Ports = append(f.Ports, p)
	return nil
}

// direct obeys a directive: a line that begins with "#:", which is a comment to tinyproxy. Its words follow that.
func (f *File) direct(words []string, number int, line string) *Error {
	verb, value := "", ""
	if len(words) == 2 {
		verb, value = words[0], words[1]
	}
	switch {
	case verb == "egress":
		egress, flaw := parseEgress(value)
		same := func(e Egress) bool { return e.To == egress.To && e.Port == egress.Port }
		if egress.Line, egress.Text = number, line; flaw == nil && !slices.ContainsFunc(f.Egress, same) {
			f.Egress = append(f.Egress, egress)
		}
		return flaw
	case verb == "format" && (value == "domains" || value == "patterns"):
		if f.formatLine > 0 {
			return &Error{Text: fmt.Sprintf("the format is chosen in line %d already", f.formatLine), Remedy: "remove one of the two lines"}
		}
		if len(f.entries) > 0 {
			return &Error{Text: "the format is chosen too late", Remedy: "choose it above the first entry"}
		}
		f.domains, f.formatLine = value == "domains", number
		return nil
	case len(words) > 1 && words[0] == "port":
		return f.openAll(words[1:], number, line)
	}
	return &Error{
		Text: "unknown directive " + excerpt("#: "+strings.Join(words, " ")),
		Remedy: `known are "#: format domains", "#: format patterns", "#: port PORT..." and "#: egress CIDR[:PORT]"; ` +
			`no comment begins with "#:"`,
	}
}

// openAll obeys the directive port.
func (f *File) openAll(words []string, number int, line string) *Error {
	for i, word := range words {
		port := parsePort(word)
		if port == 0 {
			return &Error{Text: excerpt(word) + " is no port", Remedy: "write numbers from 1 to 65535, as in #: port 22 8443"}
		}
		if slices.Contains(words[:i], word) {
			return &Error{Text: "port " + word + " twice in a line", Remedy: "remove one of them"}
		}
		if flaw := f.open(Port{Number: port, Line: number, Text: line}); flaw != nil {
			return flaw
		}
	}
	return nil
}

// entryOf returns what a line holds besides blanks and a comment.
func entryOf(line string) (string, *Error) {
	text := strings.TrimLeft(line, " \t")
	start := len(line) - len(text)
	end := strings.IndexAny(text+" ", " \t")
	entry, rest := text[:end], strings.Trim(text[end:], " \t")
	for i := 1; i < len(entry); i++ {
		if entry[i] == '#' && entry[i-1] != '\\' {
			return "", &Error{
				Col:    start + i + 1,
				Text:   "'#' inside " + excerpt(entry) + "; tinyproxy would cut it to " + excerpt(entry[:i]),
				Remedy: `put a blank before the '#' of a comment, write \# for the character itself`,
			}
		}
	}
	switch {
	case strings.HasPrefix(rest, "#:"):
		return "", &Error{Col: start + end + 1, Text: "a directive stands behind " + excerpt(entry),
			Remedy: "give the directive a line of its own"}
	case rest != "" && rest[0] != '#':
		return "", &Error{
			Col:    start + end + 1,
			Text:   "white space inside " + excerpt(text) + "; tinyproxy would cut it to " + excerpt(entry),
			Remedy: "remove the white space, or begin the comment with '#'",

			twoWords: true,
		}
	}
	return entry, nil
}

// plain refuses patterns beyond ASCII. tinyproxy compares bytes in the C locale, and what a browser sends is
// ASCII (punycode), so that such a pattern would look like a rule and never match.
func plain(pattern string) *Error {
	for _, r := range pattern {
		if r >= utf8.RuneSelf {
			return &Error{
				Text:   fmt.Sprintf("%+q in %s never matches: hosts are sent in ASCII", r, excerpt(pattern)),
				Remedy: `write the name as punycode (xn--…), or use "#: format domains"`,
			}
		}
	}
	return nil
}

// invisible finds what an editor does not show, or shows as something else than what tinyproxy reads.
func invisible(line string) *Error {
	for i, r := range line {
		var text, remedy string
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(line[i:], string(utf8.RuneError)):
			text, remedy = fmt.Sprintf("invalid UTF-8: byte %#02x", line[i]), "save the file as UTF-8"
		case r == 0:
			text, remedy = "a NUL byte; tinyproxy would end the line there", "remove it"
		case unicode.IsControl(r) && r != '\t', unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control):
			text, remedy = fmt.Sprintf("the invisible character %+q", r), "remove it"
		default:
			continue
		}
		return &Error{Col: i + 1, Text: text, Remedy: remedy}
	}
	return nil
}

func notRuleFile(path string) *Error {
	return &Error{Path: path, Text: "is not named like a rule file",
		Remedy: "name it NAME.A.B.C.D after the VM and its IPv4 address"}
}

func tooLarge(path string) *Error {
	return &Error{
		Path:   path,
		Text:   fmt.Sprintf("is larger than %d KiB", maxSize>>10),
		Remedy: "shorten it",
	}
}
