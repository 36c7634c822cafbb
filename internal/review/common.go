package review

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vifproxy/internal/check"
	"vifproxy/internal/regular"
	"vifproxy/rules"
)

// commonMin is how many lines rule files have in common before people are told of it.
const commonMin = 3

// A Common is what rule files have in common.
type Common struct {
	VMs   []string `json:"vms"`
	Lines []string `json:"lines"` // as the first of them has these
	files []rules.File
}

// CommonOf returns the lines that all of some rule files have themselves, and that all of them read alike. Without at least two files and
// three such lines there are none.
func CommonOf(files []rules.File) (c Common) {
	if len(files) < 2 {
		return c
	}
	for _, e := range ownEntries(files[0]) {
		if !slices.ContainsFunc(files[1:], func(f rules.File) bool { return f.Names() != files[0].Names() || !has(f, e) }) {
			c.Lines = append(c.Lines, e.Source)
		}
	}
	if len(c.Lines) < commonMin {
		return Common{}
	}
	for _, f := range files {
		c.VMs = append(c.VMs, f.Name)
	}
	c.files = files
	return c
}

// MostCommon returns what those two of some rule files have in common that have most. If vm is not "", its file is one of them.
func MostCommon(files []rules.File, vm string) (most Common) {
	for i, one := range files {
		for _, other := range files[:i] {
			if vm != "" && one.Name != vm && other.Name != vm {
				continue
			}
			if c := CommonOf([]rules.File{other, one}); len(c.Lines) > len(most.Lines) {
				most = c
			}
		}
	}
	return most
}

// ownEntries returns the lines of a rule file without those of lists that it includes, each once.
func ownEntries(f rules.File) (all []rules.Line) {
	for _, e := range f.Entries() {
		if e.Part == "" && !slices.ContainsFunc(all, func(other rules.Line) bool { return other.Entry() == e.Entry() }) {
			all = append(all, e)
		}
	}
	return all
}

func has(f rules.File, line rules.Line) bool {
	return slices.ContainsFunc(f.Entries(), func(e rules.Line) bool { return e.Part == "" && e.Entry() == line.Entry() })
}

// Text returns what is in common for people; "" if nothing is.
func (c Common) Text() string {
	if len(c.Lines) == 0 {
		return ""
	}
	return fmt.Sprintf("%d lines are in the lists of %s: to move them to a list that all of these include, "+
		"vifproxyctl review %s --share=LIST\n", len(c.Lines), strings.Join(c.VMs, " and "), strings.Join(c.VMs, " "))
}

// Share moves what rule files have in common to a new list, at path, that they include. Each file permits the same as before, and is
// replaced in one step. If that fails for one, the others go on with their lines, or with the list.
func (c Common) Share(path string, template rules.Template) error {
	if len(c.Lines) == 0 {
		return fmt.Errorf("they do not have %d lines in common, in one format", commonMin)
	}
	if !rules.IsSharedList(path) {
		return fmt.Errorf("%q is not the name of a list: write up to 63 letters, digits, '_', '-' or '.'", filepath.Base(path))
	}
	header := "#: format patterns"
	if c.files[0].Names() {
		header = "#: format domains"
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := regular.WriteNew(path, rules.Append(nil, append([]string{header}, c.Lines...))); errors.Is(err, os.ErrExist) {
		return fmt.Errorf("there is a list %s already: choose another name", path)
	} else if err != nil {
		return err
	}
	for i, file := range c.files {
		err := rules.Rewrite(file.Path, func(content []byte) ([]byte, error) {
			return c.including(file.Path, content, filepath.Base(path), i == 0, template)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// including returns the content of a rule file with a list in the place of its lines. Comments behind these stay, except in the file
// whose lines the list has.
func (c Common) including(path string, content []byte, name string, first bool, template rules.Template) ([]byte, error) {
	before, err := rules.ParseFile(path, content)
	if err != nil {
		return nil, err
	}
	shared := map[string]bool{}
	for _, e := range ownEntries(c.files[0]) {
		shared[e.Entry()] = slices.Contains(c.Lines, e.Source)
	}
	moved := map[int]string{} // by line: its entry as written
	for _, e := range before.Entries() {
		if e.Part == "" && shared[e.Entry()] {
			moved[e.Line], _ = rules.EntryOf(e.Source)
		}
	}
	var b bytes.Buffer
	number, included := 0, false
	for line := range bytes.Lines(content) {
		number++
		entry, is := moved[number]
		if !is {
			b.Write(line)
			continue
		}
		text := strings.TrimRight(string(line), "\r\n")
		end := string(line[len(text):])
		if strings.HasPrefix(text, "\ufeff") {
			b.WriteString("\ufeff")
		}
		if !included {
			fmt.Fprintf(&b, "#: include %s%s", name, end)
			included = true
		}
		if _, comment, _ := strings.Cut(text, entry); strings.Trim(comment, " \t") != "" && !first {
			b.WriteString(strings.Trim(comment, " \t") + end)
		}
	}
	after, err := rules.ParseFile(path, b.Bytes())
	if err != nil {
		return nil, err
	}
	for _, change := range check.Changes(template, before, after) {
		if change.Host != "" || change.Why != "" {
			return nil, fmt.Errorf("%s would not permit the same: move its lines by hand", path)
		}
	}
	return b.Bytes(), nil
}
