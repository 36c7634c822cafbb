package rules

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"vifproxy/rules/expression"
	"vifproxy/rules/flaws"
)

// sizeMax bounds rule files and templates, in bytes. A larger one is a mistake.
const sizeMax = 1 << 20

// A File is a rule file without a flaw. It lists what one AppVM may reach or, if the template says so, what it may not reach.
type File struct {
	Name   string       // of the AppVM
	Addr   netip.Addr   // of the AppVM, IPv4; invalid if the file is for a range
	In     netip.Prefix // the range; invalid if the file is for one AppVM
	Path   string       // or where else the list is
	Origin Origin

	// Included are the paths of the lists that it includes, each once.
	Included []string

	// Empty reports that there is no byte in it, or in a list that it includes. That revokes everything, but a shell's > and an editor
	// that writes in place leave the same for a moment.
	Empty bool

	// Egress is what the AppVM's proxy may connect to in addition to public addresses at the usual ports.
	Egress []Egress

	// Ports are open for this AppVM, in addition to those that the template opens for all. They are open for each host that it may
	// reach, because tinyproxy cannot tie a port to a host. Several lines may open the same number.
	Ports []Port

	sum        [sha256.Size]byte // of the content
	entries    []Line            // see Entries
	domains    bool              // whether they are names
	formatLine int               // the line that says the format; 0 if none does
	almost     Line              // see AlmostFormat
	reading    *inclusion        // while it is read, if it may include lists
}

// Entries returns the lines of the file that name something: patterns as written, or canonical host names.
func (f File) Entries() []Line { return f.entries }

// SaysFormat reports whether the file says its format, names or patterns.
func (f File) SaysFormat() bool { return f.formatLine > 0 }

// AlmostFormat returns the first comment that was meant to say the format, with the line that does so as its Text; Line is 0 if
// there is none.
func (f File) AlmostFormat() Line { return f.almost }

// Names reports whether the file says "#: format domains".
func (f File) Names() bool { return f.domains }

// Same reports whether the other file is the same in every byte, and in the same place.
func (f File) Same(other File) bool { return f.Path == other.Path && f.sum == other.sum }

// Unwritten reports whether a file has neither entries nor a format, so that it can begin with either.
func (f File) Unwritten() bool {
	return len(f.entries) == 0 && f.formatLine == 0 && len(f.Egress)+len(f.Ports) == 0
}

// A Port is a port that a line opens.
type Port struct {
	Number uint16
	Line   int    // of the rule file
	Text   string // of that line, as it stands
	Part   string // the path of the included list that has the line; "" if the rule file itself has it
}

// PortsMax is how many different ports a list may open. Each is an element of the fence, a rule of Landlock and a line for
// tinyproxy.
const PortsMax = 32

// ParseFile reads the content of a rule file. The name of the file says for which AppVM it is. ParseFile returns the first flaw, as
// an *Error. It reads the lists that the content includes from [SharedDir] beside the file. The file may itself be one of these lists,
// which is for no AppVM.
//
// A file means what a person sees in it, or is refused. tinyproxy reads a line in C buffers: it cuts a pattern at the first white
// space, at a '#' and at a NUL, and a long line into several. If that gives another pattern than the line shows, the line has a
// flaw. Blanks around a pattern, a comment after it and CRLF line ends, which are white space to tinyproxy, change nothing.
func ParseFile(path string, content []byte) (File, error) {
	return parseFile(path, content, ReadFile)
}

func parseFile(path string, content []byte, read source) (File, error) {
	f, flawed := readLines(path, content, read, true)
	if flawed != nil {
		return File{}, flawed[0]
	}
	return f, nil
}

// ReadAll returns what can be read of a rule file, and all its flaws. A mistyped directive that can mean one thing only is obeyed.
// Any other line with a flaw is left out.
func ReadAll(path string, content []byte) (File, []*Error) {
	return readLines(path, content, ReadFile, false)
}

// readLines is ReadAll, or stops at the first flaw. read reads the lists that the content includes.
func readLines(path string, content []byte, read source, stop bool) (f File, flawed []*Error) {
	name, addr, err := ParseFileName(path)
	var in netip.Prefix
	origin := InFile
	if err == nil && !addr.IsValid() {
		if name, in, err = ParseRangeName(path); in.IsValid() {
			origin = InRange
		}
	}
	if flaw := (*Error)(nil); errors.As(err, &flaw) {
		flawed = append(flawed, flaw)
	} else if !addr.IsValid() && !in.IsValid() && !IsSharedList(path) {
		flawed = append(flawed, notRuleFile(path))
	}
	if stop && flawed != nil {
		return f, flawed
	}
	if len(content) > sizeMax {
		return f, append(flawed, tooLarge(path))
	}
	f = File{Name: name, Addr: addr, In: in, Path: path, Origin: origin, Empty: len(content) == 0, sum: sha256.Sum256(content)}
	f.reading = &inclusion{dir: filepath.Join(RulesDirOf(path), SharedDir), read: read, size: len(content)}
	flawed = append(flawed, f.addAll(content, stop)...)
	f.reading = nil
	return f, flawed
}

// addAll takes in the lines of a list, or stops at the first flaw.
func (f *File) addAll(content []byte, stop bool) (flawed []*Error) {
	for i, line := range SourceLines(content) {
		good := len(f.entries)
		flaw := f.add(line, i+1)
		if flaw == nil {
			if in := f.reading; in != nil && in.next != "" {
				name := in.next
				in.next = ""
				if flawed = append(flawed, f.include(name, i+1, stop)...); stop && flawed != nil {
					break
				}
			}
			continue
		}
		f.entries = f.entries[:good]
		e := f.at(f.part(), i+1, flaw)
		e.Part, e.Meant = f.lineMeant(line, flaw)
		e.Certain = e.Meant != nil
		if meant := directiveMeant(line); meant != "" {
			e.Certain = f.add(meant, i+1) == nil
		}
		if flawed = append(flawed, e); stop {
			break
		}
	}
	return flawed
}

// lineMeant returns what the author of a line with a flaw can only have meant: the lines to write instead of a part of it.
func (f File) lineMeant(line string, flaw *flaws.Flaw) (part string, meant []string) {
	part = strings.Trim(line, " \t")
	words := strings.Fields(line)
	switch directive := directiveMeant(line); {
	case directive != "":
		return part, []string{directive}
	case f.domains:
		part = withoutComment(line)
		return part, NamesMeant(part)
	case len(words) == 2 && words[1] == "$" && flaw.Col > 0:
		return part, []string{words[0] + "$"} // "^bank\.com $": there is one thing that this can have meant
	}
	return "", nil
}

// SourceLines returns the lines of a file, or of a template, as a person sees them.
func SourceLines(content []byte) []string {
	// An editor shows no byte order mark; tinyproxy would take it for the beginning of the first pattern.
	lines := strings.Split(strings.TrimPrefix(string(content), "\ufeff"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSuffix(line, "\r")
	}
	return lines
}

// add takes in one line.
func (f *File) add(line string, number int) *flaws.Flaw {
	if flaw := invisible(line); flaw != nil {
		return flaw
	}
	if len(line) > expression.LineMax {
		return &flaws.Flaw{
			Col:    expression.LineMax + 1,
			Text:   fmt.Sprintf("%d bytes in a line; tinyproxy would split it after %d", len(line), expression.LineMax),
			Remedy: "make two lines of it",
		}
	}
	text := strings.Trim(line, " \t")
	if directive, ok := strings.CutPrefix(text, "#:"); ok {
		words := strings.Fields(directive)
		flaw := f.directive(words, number, text)
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
	entry, flaw := EntryOf(line)
	if flaw != nil {
		if f.domains && flaw.TwoWords {
			flaw.Text, flaw.Remedy = "more than one name in "+flaws.Excerpt(text), "write one name a line; a comment begins with '#'"
		}
		return flaw
	}
	if !f.domains {
		f.entries = append(f.entries, Line{Text: entry, Line: number, Source: text, Part: f.part()})
		return asciiOnly(entry)
	}
	host, flaw := parseEntry(entry)
	if meant := NamesMeant(entry); flaw != nil && meant != nil {
		flaw.Remedy = "write " + strings.Join(meant, " and ")
	}
	if flaw == nil && host.Port != 0 {
		flaw = f.open(Port{Number: host.Port, Line: number, Text: text})
	}
	f.entries = append(f.entries, Line{Text: host.entry(), Line: number, Source: text, Port: host.Port, Part: f.part()})
	return flaw
}

// open takes in a port that a line opens.
func (f *File) open(p Port) *flaws.Flaw {
	different := map[uint16]bool{p.Number: true}
	for _, other := range f.Ports {
		different[other.Number] = true
	}
	if len(different) > PortsMax {
		return &flaws.Flaw{Text: fmt.Sprintf("more than %d different ports", PortsMax), Remedy: "open those that are needed"}
	}
	p.Part = f.part()
	f.Ports = append(f.Ports, p)
	return nil
}

// directive obeys a line that begins with "#:", which is a comment to tinyproxy. words are what follows.
func (f *File) directive(words []string, number int, line string) *flaws.Flaw {
	verb, value := "", ""
	if len(words) == 2 {
		verb, value = words[0], words[1]
	}
	switch {
	case verb == "egress":
		egress, flaw := parseEgress(value)
		same := func(e Egress) bool { return e.To == egress.To && e.Port == egress.Port }
		if egress.Line, egress.Text, egress.Part = number, line, f.part(); flaw == nil && !slices.ContainsFunc(f.Egress, same) {
			f.Egress = append(f.Egress, egress)
		}
		return flaw
	case verb == "format" && (value == "domains" || value == "patterns"):
		if f.formatLine > 0 {
			return &flaws.Flaw{Text: fmt.Sprintf("the format is chosen in line %d already", f.formatLine), Remedy: "remove one of the two lines"}
		}
		before := 0
		if f.reading != nil {
			before = f.reading.entries
		}
		if len(f.entries) > before { // of this list, or of one that it includes
			return &flaws.Flaw{Text: "the format is chosen too late", Remedy: "choose it above the first entry"}
		}
		f.domains, f.formatLine = value == "domains", number
		return nil
	case verb == "include":
		return f.includes(value)
	case len(words) > 1 && words[0] == "port":
		return f.openAll(words[1:], number, line)
	}
	return &flaws.Flaw{
		Text: "unknown directive " + flaws.Excerpt("#: "+strings.Join(words, " ")),
		Remedy: `known are "#: format domains", "#: format patterns", "#: port PORT...", "#: egress CIDR[:PORT]" and "#: include LIST"; ` +
			`no comment begins with "#:"`,
	}
}

// openAll obeys the directive port.
func (f *File) openAll(words []string, number int, line string) *flaws.Flaw {
	for i, word := range words {
		port := parsePort(word)
		if port == 0 {
			return &flaws.Flaw{Text: flaws.Excerpt(word) + " is no port", Remedy: "write numbers from 1 to 65535, as in #: port 22 8443"}
		}
		if slices.Contains(words[:i], word) {
			return &flaws.Flaw{Text: "port " + word + " twice in a line", Remedy: "remove one of them"}
		}
		if flaw := f.open(Port{Number: port, Line: number, Text: line}); flaw != nil {
			return flaw
		}
	}
	return nil
}

// EntryOf returns a line without the blanks around it and without its comment.
func EntryOf(line string) (string, *flaws.Flaw) {
	text := strings.TrimLeft(line, " \t")
	start := len(line) - len(text)
	end := strings.IndexAny(text+" ", " \t")
	entry, rest := text[:end], strings.Trim(text[end:], " \t")
	for i := 1; i < len(entry); i++ {
		if entry[i] == '#' && entry[i-1] != '\\' {
			return "", &flaws.Flaw{
				Col:    start + i + 1,
				Text:   "'#' inside " + flaws.Excerpt(entry) + "; tinyproxy would cut it to " + flaws.Excerpt(entry[:i]),
				Remedy: `put a blank before the '#' of a comment, write \# for the character itself`,
			}
		}
	}
	switch {
	case strings.HasPrefix(rest, "#:"):
		return "", &flaws.Flaw{Col: start + end + 1, Text: "a directive stands behind " + flaws.Excerpt(entry),
			Remedy: "give the directive a line of its own"}
	case rest != "" && rest[0] != '#':
		return "", &flaws.Flaw{
			Col:    start + end + 1,
			Text:   "white space inside " + flaws.Excerpt(text) + "; tinyproxy would cut it to " + flaws.Excerpt(entry),
			Remedy: "remove the white space, or begin the comment with '#'",

			TwoWords: true,
		}
	}
	return entry, nil
}

// asciiOnly refuses patterns beyond ASCII. tinyproxy compares bytes in the C locale, and browsers send names in ASCII (punycode).
// Such a pattern would look like a rule and never match.
func asciiOnly(pattern string) *flaws.Flaw {
	for _, r := range pattern {
		if r >= utf8.RuneSelf {
			return &flaws.Flaw{
				Text:   fmt.Sprintf("%+q in %s never matches: hosts are sent in ASCII", r, flaws.Excerpt(pattern)),
				Remedy: `write the name as punycode (xn--…), or use "#: format domains"`,
			}
		}
	}
	return nil
}

// invisible finds characters that an editor hides, or shows as something else than tinyproxy reads.
func invisible(line string) *flaws.Flaw {
	for i, r := range line {
		var text, remedy string
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(line[i:], string(utf8.RuneError)):
			text, remedy = fmt.Sprintf("invalid UTF-8: byte %#02x", line[i]), "save the file as UTF-8"
		case r == 0:
			text, remedy = "a NUL byte; tinyproxy would end the line there", "remove it"
		case unicode.IsControl(r) && r != '\t', unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control):
			text, remedy = fmt.Sprintf("the invisible character %+q", r), "remove it"
			if r == '\r' { // as old Macs end lines
				remedy = "save the file with Unix line ends"
			}
		default:
			continue
		}
		return &flaws.Flaw{Col: i + 1, Text: text, Remedy: remedy}
	}
	return nil
}

func notRuleFile(path string) *Error {
	return wrong(path, 0, "is not named like a rule file",
		"name it NAME.A.B.C.D after the VM and its IPv4 address")
}

func tooLarge(path string) *Error {
	return wrong(path, 0, fmt.Sprintf("is larger than %d KiB", sizeMax>>10),
		"shorten it")
}
