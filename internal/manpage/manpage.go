// Package manpage makes manual pages of help texts, so that there is one source of both. It is for the tests
// that keep the pages in packaging/man up to date; no program that is installed has it.
//
// A help text is written for people: paragraphs; headings that end in a colon; and what is indented by four,
// a list ("    word    what it means", or the meaning in lines indented further) or, where it is none, text
// that stays as it is.
package manpage

import (
	"fmt"
	"regexp"
	"strings"
)

// A Page is one page of the manual.
type Page struct {
	Name    string
	Section int
	Summary string // for apropos(1)
	body    strings.Builder
	headed  bool // nothing has followed the last heading yet
}

var heading = regexp.MustCompile(`^([A-Z][^:.]*):$`)

// Help adds a help text. What stands before and after its usage is the description.
func (p *Page) Help(text string) {
	title, lead := "", ""
	p.blocks(text, func(block string) bool {
		first, rest, _ := strings.Cut(block, "\n")
		match := heading.FindStringSubmatch(first)
		switch {
		case match != nil && match[1] == "Usage":
			p.Head("Synopsis")
			p.block(rest)
			p.Head("Description")
			p.block(lead)
			title = "Description"
		case match != nil:
			title, _, _ = strings.Cut(match[1], ",")
			p.Head(title)
			p.block(rest)
		case title == "":
			lead = block
		default:
			return true
		}
		return false
	})
}

// Head begins a section.
func (p *Page) Head(title string) {
	fmt.Fprintf(&p.body, ".SH %s\n", quote(strings.ToUpper(title)))
	p.headed = true
}

// Subhead begins a part of a section.
func (p *Page) Subhead(title string) {
	fmt.Fprintf(&p.body, ".SS %s\n", quote(title))
	p.headed = true
}

// Text adds paragraphs and lists.
func (p *Page) Text(text string) { p.blocks(text, func(string) bool { return true }) }

// blocks adds the blocks of a text that use wants.
func (p *Page) blocks(text string, use func(block string) bool) {
	for _, block := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if use(block) {
			p.block(block)
		}
	}
}

// block adds lines without a blank one between.
func (p *Page) block(text string) {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for len(lines) > 0 {
		n := 0
		for n < len(lines) && indented(lines[n]) == indented(lines[0]) {
			n++
		}
		switch {
		case lines[0] == "":
		case !indented(lines[0]):
			p.paragraph()
			p.lines(lines[:n])
		case isList(lines[:n]):
			p.list(lines[:n])
		default:
			p.paragraph()
			p.body.WriteString(".nf\n.RS 4\n")
			for _, line := range lines[:n] {
				p.lines([]string{strings.TrimPrefix(line, "    ")})
			}
			p.body.WriteString(".RE\n.fi\n")
		}
		lines = lines[n:]
	}
}

func (p *Page) paragraph() {
	if !p.headed {
		p.body.WriteString(".PP\n")
	}
	p.headed = false
}

func indented(line string) bool { return strings.HasPrefix(line, "    ") }

var item = regexp.MustCompile(`^    (\S.*?)  +(\S.*)$`)

// isList tells whether each item has a meaning, on its line or on the next. A prompt begins an example.
func isList(lines []string) bool {
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, "    $ "):
			return false
		case strings.HasPrefix(line, "     "): // goes on
			if i == 0 {
				return false
			}
		case item.MatchString(line):
		case i+1 == len(lines) || !strings.HasPrefix(lines[i+1], "     "):
			return false
		}
	}
	return true
}

func (p *Page) list(lines []string) {
	p.headed = false
	for _, line := range lines {
		switch match := item.FindStringSubmatch(line); {
		case strings.HasPrefix(line, "     "):
			p.lines([]string{strings.TrimSpace(line)})
		case match != nil:
			fmt.Fprintf(&p.body, ".TP\n.B %s\n", escape(match[1]))
			p.lines(match[2:])
		default:
			fmt.Fprintf(&p.body, ".TP\n.B %s\n", escape(strings.TrimSpace(line)))
		}
	}
}

func (p *Page) lines(lines []string) {
	for _, line := range lines {
		text := escape(line)
		if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "\\(aq") {
			text = `\&` + text // no request
		}
		p.body.WriteString(text + "\n")
	}
}

// escape keeps characters from being made typographic, so that what is on the screen can be copied: see
// groff_char(7).
func escape(text string) string { return characters.Replace(text) }

var characters = strings.NewReplacer(`\`, `\e`, "-", `\-`,
	"'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, `"`, `\(dq`)

func quote(text string) string { return `"` + escape(text) + `"` }

// String is the page in the macros of man(7).
func (p *Page) String() string {
	return fmt.Sprintf(".\\\" Made from the program's help text: run `make man` after changing that.\n"+
		".TH %s %d \"\" vifproxy\n.SH NAME\n%s \\- %s\n%s",
		strings.ToUpper(p.Name), p.Section, escape(p.Name), escape(p.Summary), p.body.String())
}
