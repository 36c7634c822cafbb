package policy

import "slices"

// Places are what sandboxes depend on in the file system, as texts that change with it: by the path of a page, "" if it is not there, and
// at the path "" what concerns all sandboxes.
type Places map[string]string

// Of returns what the sandbox of a policy depends on.
func (s Places) Of(p *Policy) string {
	text := s[""]
	for _, page := range p.Config.PageFiles {
		text += s[page]
	}
	return text
}

// Have reports whether somebody has looked at all of these pages.
func (s Places) Have(pages []string) bool {
	return !slices.ContainsFunc(pages, func(page string) bool { _, looked := s[page]; return !looked })
}
