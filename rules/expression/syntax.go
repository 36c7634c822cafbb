package expression

// A Syntax is how the template makes tinyproxy read filter lines.
type Syntax struct {
	Language      Language
	CaseSensitive bool // FilterCaseSensitive; Fnmatch is case-sensitive with or without it
	URLs          bool // FilterURLs: lines are compared with the whole URL
	DefaultAllow  bool // FilterDefaultDeny No: lines are what is forbidden, and a narrower line permits more
}

// Narrows reports whether lines are compiled to extended expressions that match host names only. They are not with FilterURLs,
// because lines are compared with more than a host, and not in a black list, which must not forbid less than it says.
func (s Syntax) Narrows() bool { return !s.DefaultAllow && !s.URLs }

// Compiled returns the syntax of the lines that tinyproxy gets.
func (s Syntax) Compiled() Syntax {
	if s.Narrows() {
		s.CaseSensitive = s.CaseSensitive || s.Language == Fnmatch
		s.Language = Extended
	}
	return s
}
