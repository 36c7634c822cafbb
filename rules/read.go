// Package rules reads what each AppVM may reach: the rule directory, with one file NAME.A.B.C.D for each
// AppVM, and the template of their tinyproxy configurations.
//
// Two ideas run through it. First, a file means what a person sees in it. Otherwise the package refuses it, with file, line and
// remedy. tinyproxy never reads the file itself, but what [File.Lines] makes of it. Second, "could not read" is never "there is
// nothing". A failure is not taken for an absence, and concerns one AppVM only.
//
// Concurrency: all functions may be called from any goroutine, and so may the methods of a [Reader]. A [Set] and its parts are
// values that nobody changes.
package rules

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"vifproxy/internal/notroot"
	"vifproxy/internal/regular"
	"vifproxy/internal/terminal"
)

// A Set is the rule directory at one moment.
type Set struct {
	Template    Template
	TemplateErr error     // an *Error, or nil; when set, Template is the zero value
	Files       []File    // sorted by Name
	Refused     []Refused // sorted by Path; those of ranges have no Name
	Ranges      []Range   // the narrowest first

	// Ceiling is what no list may go beyond, as it was last read; it admits nothing if it never was. It is nil if there is none.
	Ceiling    *Ceiling
	CeilingErr error // an *Error, or nil: why the ceiling cannot be read now

	// Shown are gateways that AppVMs are shown in the place of their own, by the AppVMs' addresses. They are decided where lists are that are
	// in no file.
	Shown map[netip.Addr]netip.Addr

	Again time.Duration // until a list that is Unsettled, or does not last, should be read again; 0 if none is

	// Unknown is why lists that are in no file could not be read; nil if they were. They are here as they were last known, and an AppVM
	// that comes waits until they are known again.
	Unknown error
}

// Truncated reports whether a rule file, or the ceiling, has become empty since before, which is how writing in place begins. One that
// was refused before is such a file too: last good rules may be in force.
func (s Set) Truncated(before Set) bool {
	if before.Ceiling != nil && s.Ceiling.Empty && !before.Ceiling.Empty {
		return true
	}
	truncated := func(f File) bool {
		was := func(old File) bool { return old.Path == f.Path && !old.Empty }
		return f.Empty && (slices.ContainsFunc(before.Files, was) ||
			slices.ContainsFunc(before.Ranges, func(r Range) bool { return was(r.File) }) ||
			slices.ContainsFunc(before.Refused, func(r Refused) bool { return r.Path == f.Path }))
	}
	return slices.ContainsFunc(s.Files, truncated) || slices.ContainsFunc(s.Ranges, func(r Range) bool { return truncated(r.File) })
}

// A Refused is a rule file, or another list, that cannot be used.
type Refused struct {
	Name   string       // "" if the file's name does not give one
	Addr   netip.Addr   // invalid if the file's name does not give one
	In     netip.Prefix // the range that the file is for; invalid if that is one AppVM
	Path   string       // or where else the list is
	Origin Origin
	Err    error // an *Error
}

// Read reads the directory dir and the template. A missing directory counts as empty, and a missing template as the built-in
// one. After an error nothing is known about the directory.
func Read(dir, template string) (Set, error) { return read(dir, template, ReadFile) }

// listings is how often Read lists a directory whose files go before they can be opened. After that, another program changes the
// directory faster than it can be read.
const listings = 5

func read(dir, template string, readFile func(path string) ([]byte, error)) (Set, error) {
	l, err := load(dir, template, readFile, func([]string) {})
	if err != nil {
		return Set{}, err
	}
	return l.parse(loadedFile.parse), nil
}

// A loaded is the content of a rule directory and a template.
type loaded struct {
	template    string // its path
	content     []byte // of the template; nil if there is none
	templateErr error
	files       []loadedFile
}

// A loadedFile is a file that is named like a rule file.
type loadedFile struct {
	Refused // unless Err is nil
	content []byte
	shared  shared   // the lists that it includes
	paths   []string // of these
	list    *List    // nil for a file
}

// parse reads what a file, or another list, says.
func (f loadedFile) parse() (File, error) {
	if f.list != nil {
		return f.list.Parse()
	}
	return parseFile(f.Path, f.content, f.shared.read)
}

// load reads all files, and parses none. Before it reads any, it calls ahead with the paths of the rule files.
func load(dir, template string, readFile source, ahead func(paths []string)) (loaded, error) {
	l := loaded{template: template}
	for range listings {
		entries, unchanged, err := list(dir)
		if err != nil && !nothingAt(dir, err) {
			if errors.Is(err, fs.ErrPermission) {
				err = fmt.Errorf("%w (%s)", err, openToGroup)
			}
			return loaded{}, fmt.Errorf("read rule directory: %w", err)
		}
		candidates := ruleFiles(dir, entries)
		refuseDuplicates(candidates)
		var gone bool
		if l.files, gone = loadFiles(candidates, readFile, ahead); !gone && unchanged() {
			l.content, l.templateErr = loadTemplate(template, readFile)
			return l, nil
		}
	}
	return loaded{}, fmt.Errorf("read rule directory: %d times, %s or files of it had gone before they could be opened", listings, dir)
}

// parse returns the Set that was read. It does not use the file system.
func (l loaded) parse(parse func(loadedFile) (File, error)) (set Set) {
	switch {
	case l.templateErr != nil:
		set.TemplateErr = l.templateErr
	case l.content == nil:
		set.Template = Builtin()
	default:
		set.Template, set.TemplateErr = ParseTemplate(l.template, string(l.content))
	}
	for _, f := range l.files {
		var file File
		if f.Err == nil {
			file, f.Err = parse(f)
		}
		if f.In.IsValid() {
			set.Ranges = append(set.Ranges, Range{Name: f.Name, In: f.In, Path: f.Path, File: file, Err: f.Err})
			f.Name = ""
		}
		if f.Err == nil && f.In.IsValid() {
			continue
		}
		if f.Err != nil {
			set.Refused = append(set.Refused, f.Refused)
		} else {
			set.Files = append(set.Files, file)
		}
	}
	slices.SortFunc(set.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(set.Ranges, func(a, b Range) int {
		return cmp.Or(cmp.Compare(b.In.Bits(), a.In.Bits()), strings.Compare(a.Path, b.Path))
	})
	slices.SortFunc(set.Refused, func(a, b Refused) int { return strings.Compare(a.Path, b.Path) })
	return set
}

// list lists a directory. unchanged reports later whether the directory of that name is still the same one: if another has
// replaced it, the old one may be deleted file by file during the listing.
func list(dir string) (entries []fs.DirEntry, unchanged func() bool, err error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0) // without O_DIRECTORY it would wait for a FIFO
	if err != nil {
		return nil, func() bool { return nothingAt(dir, err) }, err
	}
	defer f.Close()
	listed, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	entries, err = f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, func() bool {
		now, err := os.Stat(dir)
		return err == nil && os.SameFile(listed, now)
	}, err
}

// loadFiles reads the files that were listed. If one has gone since, somebody has deleted it, or has replaced the directory by
// another or by a link that leads nowhere. Only another listing can tell.
func loadFiles(candidates []Refused, readFile source, ahead func(paths []string)) (files []loadedFile, gone bool) {
	lists, paths := shared{}, []string{}
	for _, c := range candidates {
		if c.Err == nil {
			paths = append(paths, c.Path)
		}
	}
	ahead(paths)
	for _, c := range candidates {
		f := loadedFile{Refused: c, shared: lists}
		if f.Err == nil {
			f.content, f.Err = readFile(f.Path)
		}
		if errors.Is(f.Err, fs.ErrNotExist) {
			return nil, true
		}
		if f.Err == nil {
			f.paths = lists.collect(filepath.Join(filepath.Dir(f.Path), SharedDir), f.content, readFile)
		}
		files = append(files, f)
	}
	return files, false
}

// ruleFiles returns the files that are named like a rule file, rightly or wrongly.
func ruleFiles(dir string, entries []fs.DirEntry) []Refused {
	var candidates []Refused
	for _, entry := range entries {
		c := Refused{Path: filepath.Join(dir, entry.Name()), Origin: InFile}
		c.Name, c.Addr, c.Err = ParseFileName(c.Path)
		if !c.Addr.IsValid() && c.Err == nil {
			if c.Name, c.In, c.Err = ParseRangeName(c.Path); c.In.IsValid() {
				c.Origin = InRange
			}
		}
		if c.Addr.IsValid() || c.In.IsValid() || c.Err != nil {
			candidates = append(candidates, c)
		}
	}
	return candidates
}

// refuseDuplicates refuses every file that shares its VM name or address, or its range, with another file. Only the user knows which
// one is meant.
func refuseDuplicates(candidates []Refused) {
	byName, byAddr, byRange := map[string][]string{}, map[netip.Addr][]string{}, map[netip.Prefix][]string{}
	for _, c := range candidates {
		if c.Err == nil && c.In.IsValid() {
			byRange[c.In] = append(byRange[c.In], c.Path)
		} else if c.Err == nil {
			byName[c.Name] = append(byName[c.Name], c.Path)
			byAddr[c.Addr] = append(byAddr[c.Addr], c.Path)
		}
	}
	for i := range candidates {
		c := &candidates[i]
		if c.Err != nil {
			continue
		}
		what, paths := "the VM name "+c.Name, byName[c.Name]
		if c.In.IsValid() {
			what, paths = "the range "+c.In.String(), byRange[c.In]
		} else if len(paths) == 1 {
			what, paths = "the address "+c.Addr.String(), byAddr[c.Addr]
		}
		others := slices.DeleteFunc(slices.Clone(paths), func(path string) bool { return path == c.Path })
		if len(others) > 0 {
			c.Err = wrong(c.Path, 0, what+" is also that of "+terminal.Quote(strings.Join(others, ", ")),
				"keep one of these files")
		}
	}
}

// loadTemplate returns the content of the template, or nil if there is none.
func loadTemplate(path string, readFile func(path string) ([]byte, error)) ([]byte, error) {
	content, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		dir := filepath.Dir(path)
		if _, err := os.Stat(dir); err != nil && !nothingAt(dir, err) {
			return nil, wrong(path, 0, "cannot be opened: "+withoutPath(err),
				"see what "+dir+" leads to")
		}
		return nil, nil
	case err != nil:
		return nil, err
	}
	return append([]byte{}, content...), nil // an empty one is one
}

// ReadFile returns the content of a file, up to one byte more than sizeMax. It does not wait for a FIFO or a device. The error is
// fs.ErrNotExist if nothing is at path, and an *Error otherwise.
func ReadFile(path string) ([]byte, error) {
	content, _, err := readAfter(path, func(*os.File, fs.FileInfo) error { return nil })
	return content, err
}

// readAfter is ReadFile, but calls look with the open file first, and also returns when the file was last changed.
func readAfter(path string, look func(*os.File, fs.FileInfo) error) ([]byte, time.Time, error) {
	fail := func(text, remedy string) ([]byte, time.Time, error) {
		return nil, time.Time{}, wrong(path, 0, text,
			remedy)
	}
	file, info, err := regular.Open(path, os.O_RDONLY, 0)
	switch {
	case errors.Is(err, regular.ErrNotRegular):
		return fail("is not a regular file", "replace it with one, or remove it")
	case err != nil && nothingAt(path, err):
		return nil, time.Time{}, fs.ErrNotExist
	case errors.Is(err, fs.ErrPermission):
		return fail("cannot be opened: "+withoutPath(err), openToGroup)
	case err != nil:
		return fail("cannot be opened: "+withoutPath(err), "make it a readable file, or remove it")
	}
	defer file.Close()
	if err := look(file, info); err != nil {
		return nil, time.Time{}, err
	}
	if info, err = file.Stat(); err != nil {
		return fail("cannot be examined: "+withoutPath(err), "")
	}
	content, err := regular.ReadAll(file, sizeMax+1)
	if err != nil {
		return fail("cannot be read: "+withoutPath(err), "")
	}
	return content, info.ModTime(), nil
}

// openToGroup is the remedy for a file or directory that only root may read.
const openToGroup = notroot.InGroup + ": " + notroot.MakeReadable

// nothingAt reports whether err came because nothing is at path. A link that leads nowhere, such as one into a file system that
// is not mounted, is something.
func nothingAt(path string, err error) bool {
	if !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, err = os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// withoutPath returns the message of a file system error without the path.
func withoutPath(err error) string {
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}
