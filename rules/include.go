package rules

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"vifproxy/internal/terminal"
	"vifproxy/rules/flaws"
)

// A rule file may include lists that several AppVMs share. All of them are read, or the rule file is refused: it is never in force with a
// part of what it includes.

// SharedDir is the name of the directory of these lists, in the rule directory.
const SharedDir = "lists.d"

const (
	// includesMax is how many lists a rule file may include, those of its lists counted too.
	includesMax = 64

	// includeDepthMax is how many lists may be on the way from a rule file to a list, that one included.
	includeDepthMax = 8
)

// sharedName matches names of lists. No path is one, so a list is always in its directory.
var sharedName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

func isShared(name string) bool { return sharedName.MatchString(name) }

// IsSharedList reports whether a path is that of a list which rule files may include.
func IsSharedList(path string) bool {
	return filepath.Base(filepath.Dir(path)) == SharedDir && isShared(filepath.Base(path))
}

// RulesDirOf returns the rule directory of a rule file, or of a list that rule files may include.
func RulesDirOf(path string) string {
	if IsSharedList(path) {
		path = filepath.Dir(path)
	}
	return filepath.Dir(path)
}

// A source of lists returns the content of the list at a path. The error is fs.ErrNotExist if there is none.
type source func(path string) ([]byte, error)

// An inclusion is where the reading of a rule file is.
type inclusion struct {
	dir   string // of the lists
	read  source
	stack []string // paths of the lists that are being read
	next  string   // the name of the list that the last line includes
	size  int      // of all that was read, in bytes

	entries int // how many there were before the list that is being read, or the rule file itself
}

// part returns the path of the list that is being read; "" if that is the rule file itself.
func (f *File) part() string {
	if f.reading == nil || len(f.reading.stack) == 0 {
		return ""
	}
	return f.reading.stack[len(f.reading.stack)-1]
}

// includes obeys the directive include, as far as the line is concerned.
func (f *File) includes(name string) *flaws.Flaw {
	switch {
	case f.reading == nil:
		return &flaws.Flaw{Text: "only rule files can include lists", Remedy: "write the lines of the list here"}
	case !isShared(name):
		return &flaws.Flaw{Text: flaws.Excerpt(name) + " is not the name of a list in " + SharedDir,
			Remedy: "a name is a letter or digit and then up to 62 letters, digits, '_', '-' or '.'"}
	}
	f.reading.next = name
	return nil
}

// include reads a list that a line includes.
func (f *File) include(name string, line int, stop bool) []*Error {
	in := f.reading
	path := filepath.Join(in.dir, name)
	fail := func(text, remedy string) []*Error { return []*Error{f.wrong(line, text, remedy)} }
	switch i := slices.Index(in.stack, path); {
	case i >= 0:
		var names []string
		for _, path := range append(slices.Clone(in.stack[i:]), path) {
			names = append(names, filepath.Base(path))
		}
		return fail("a list includes itself: "+strings.Join(names, ", which includes "), "remove one of these lines")
	case slices.Contains(f.Included, path):
		return nil
	case len(in.stack) == includeDepthMax:
		return fail(fmt.Sprintf("lists include one another more than %d deep", includeDepthMax), "include the last ones in the rule file")
	case len(f.Included) == includesMax:
		return fail(fmt.Sprintf("more than %d lists are included", includesMax), "make one list of several")
	}
	f.Included = append(f.Included, path)
	content, err := in.read(path)
	switch flaw := (*Error)(nil); {
	case errors.Is(err, fs.ErrNotExist):
		return fail("there is no "+terminal.Quote(path), "write that list, or remove the line")
	case errors.As(err, &flaw):
		return []*Error{flaw}
	case err != nil:
		return fail(err.Error(), "")
	}
	if in.size += len(content); in.size > sizeMax {
		return fail(fmt.Sprintf("with %s, the list is larger than %d KiB", terminal.Quote(path), sizeMax>>10), "shorten it")
	}
	f.Empty = f.Empty || len(content) == 0
	f.sum = sha256.Sum256(slices.Concat(f.sum[:], []byte(path+"\x00"), content))

	domains, formatLine, almost, before := f.domains, f.formatLine, f.almost, len(f.entries)
	f.domains, f.formatLine = false, 0
	in.stack = append(in.stack, path)
	outer := in.entries
	in.entries = before
	flawed := f.addAll(content, stop)
	in.stack, in.entries = in.stack[:len(in.stack)-1], outer
	if f.domains != domains && len(f.entries) > before && flawed == nil {
		its, ours := "names", "patterns"
		if domains {
			its, ours = ours, its
		}
		flawed = fail(fmt.Sprintf("%s is a list of %s, and this one is of %s", terminal.Quote(path), its, ours),
			`begin both with the same format, such as "#: format domains"`)
	}
	f.domains, f.formatLine, f.almost = domains, formatLine, almost
	return flawed
}

// wrong returns an Error about a line of what is being read.
func (f *File) wrong(line int, text, remedy string) *Error {
	return f.at(f.part(), line, &flaws.Flaw{Text: text, Remedy: remedy})
}

// at returns an Error about a line of a list that the file includes, or of the file itself if part is "".
func (f *File) at(part string, line int, flaw *flaws.Flaw) *Error {
	if part == "" {
		part = f.Path
	}
	return at(part, line, flaw)
}

// Parts returns the file without what it includes, and then each list with an entry, a port or a network in the file, as if it were a file.
func (f File) Parts() []File {
	all := make([]File, 1+len(f.Included))
	for i := range all {
		all[i] = f
		all[i].entries, all[i].Ports, all[i].Egress, all[i].Included = nil, nil, nil, nil
	}
	of := func(part string) *File { return &all[1+slices.Index(f.Included, part)] } // that of "" is -1
	for _, e := range f.entries {
		part := of(e.Part)
		part.entries = append(part.entries, e)
	}
	for _, p := range f.Ports {
		part := of(p.Part)
		part.Ports = append(part.Ports, p)
	}
	for _, e := range f.Egress {
		part := of(e.Part)
		part.Egress = append(part.Egress, e)
	}
	for i, path := range f.Included {
		all[1+i].Path, all[1+i].almost = path, Line{}
	}
	return append(all[:1], slices.DeleteFunc(all[1:], func(f File) bool { return len(f.entries)+len(f.Ports)+len(f.Egress) == 0 })...)
}

// shared are the contents of lists that rule files include, as one reading of the directory has found them.
type shared map[string]sharedList

type sharedList struct {
	content []byte
	err     error
}

func (s shared) read(path string) ([]byte, error) {
	list, ok := s[path]
	if !ok {
		return nil, fmt.Errorf("%s and more are too much to include: %d lists and %d KiB are possible", terminal.Quote(path), includesMax, sizeMax>>10)
	}
	return list.content, list.err
}

// included returns the paths of the lists that lines of a content include.
func included(dir string, content []byte) (paths []string) {
	if !bytes.Contains(content, []byte("include")) {
		return nil
	}
	for _, line := range SourceLines(content) {
		directive, ok := strings.CutPrefix(strings.Trim(line, " \t"), "#:")
		if words := strings.Fields(directive); ok && len(words) == 2 && words[0] == "include" && isShared(words[1]) {
			paths = append(paths, filepath.Join(dir, words[1]))
		}
	}
	return paths
}

// collect reads all lists that a content includes, and those that these include, each once.
func (s shared) collect(dir string, content []byte, readFile source) (paths []string) {
	todo, size := [][]byte{content}, 0
	for len(todo) > 0 && len(paths) <= includesMax && size <= sizeMax {
		content, todo = todo[0], todo[1:]
		size += len(content)
		for _, path := range included(dir, content) {
			if len(paths) > includesMax || slices.Contains(paths, path) {
				continue
			}
			paths = append(paths, path)
			list, known := s[path]
			if !known {
				list.content, list.err = readFile(path)
				s[path] = list
			}
			if list.err == nil {
				todo = append(todo, list.content)
			}
		}
	}
	return paths
}

// An outlook tells which lists will be read, as soon as there is what includes them. So all that may not answer is asked for at once. It
// goes as far as collect does for each rule file, where several include one list: for the first of them.
type outlook struct {
	dir string             // of the lists
	by  map[string]*demand // who includes them, by path
}

// A demand is what a rule file includes.
type demand struct{ lists, size int }

// lists returns the paths of the lists that a rule file or a list includes, without those that it has returned before.
func (o *outlook) lists(path string, content []byte) (paths []string) {
	d := o.by[path]
	if d == nil {
		d = &demand{}
	}
	d.size += len(content)
	for _, list := range included(o.dir, content) {
		if d.lists <= includesMax && d.size <= sizeMax && o.by[list] == nil {
			d.lists++
			o.by[list] = d
			paths = append(paths, list)
		}
	}
	return paths
}
