// Package manpage makes manual pages from help texts, so that both have one source. The tests that keep the pages in packaging/man up to
// date use it. No installed program links it.
//
// A help text has paragraphs, headings that end in a colon, and lines that are indented by four. Such lines are a list if each has the
// form "    word    what it means", or has its meaning in lines indented further. Otherwise they stay as they are.
//
// Concurrency: a Page belongs to one goroutine.
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

// Help adds a help text. The text before and after its usage is the description.
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

// blocks adds the blocks of a text for which use returns true.
func (p *Page) blocks(text string, use func(block string) bool) {
	for _, block := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if use(block) {
			p.block(block)
		}
	}
}

// block adds lines that have no blank line between them.
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

// isList reports whether each item has a meaning, on its line or on the next. A prompt begins an example, which is not a list.
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

// escape keeps groff from making characters typographic, so that text on the screen can be copied: see groff_char(7).
func escape(text string) string { return characters.Replace(text) }

var characters = strings.NewReplacer(`\`, `\e`, "-", `\-`,
	"'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, `"`, `\(dq`)

func quote(text string) string { return `"` + escape(text) + `"` }

// String returns the page in the macros of man(7).
func (p *Page) String() string {
	return fmt.Sprintf(".\\\" Made from the program's help text: run `make man` after changing that.\n"+
		".TH %s %d \"\" vifproxy\n.SH NAME\n%s \\- %s\n%s",
		strings.ToUpper(p.Name), p.Section, escape(p.Name), escape(p.Summary), p.body.String())
}
