package rules

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"sync"
)

// A Ceiling is a list that no other list may go beyond. It is written like a rule file, and belongs to no AppVM.
type Ceiling struct {
	File
	compiled sync.Map // by Syntax
}

// Compiled returns what make makes of the ceiling for a syntax. It is made once, because a ceiling is compared with every list.
func (c *Ceiling) Compiled(s Syntax, make func() any) any {
	made, ok := c.compiled.Load(s)
	if !ok {
		made, _ = c.compiled.LoadOrStore(s, make())
	}
	return made
}

// ceilingRemedy is what to do about a ceiling that is not there.
const ceilingRemedy = "write it like a rule file, or remove the option --ceiling"

// ReadCeiling reads the ceiling at a path. If path is "", there is none, and it returns nil. The error is an *Error.
func ReadCeiling(path string) (*Ceiling, error) {
	if path == "" {
		return nil, nil
	}
	content, err := ReadFile(path)
	if err != nil {
		return nil, ceilingError(path, err)
	}
	return ParseCeiling(path, content)
}

// ParseCeiling reads the content of a ceiling. The error is an *Error.
func ParseCeiling(path string, content []byte) (*Ceiling, error) {
	if len(content) > sizeMax {
		return nil, tooLarge(path)
	}
	c := &Ceiling{File: File{Path: path, Origin: InFile, Empty: len(content) == 0, sum: sha256.Sum256(content)}}
	if flawed := c.addAll(content, true); flawed != nil {
		return nil, flawed[0]
	}
	return c, nil
}

func ceilingError(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return wrong(path, 0, "is not there, and no list may go beyond it", ceilingRemedy)
	}
	return err
}

// Under has the reader read a ceiling as well, for [Set.Ceiling]. Under is called before the first Read.
func (r *Reader) Under(path string) {
	if r.under = path; path != "" {
		r.ceiling = &Ceiling{File: File{Path: path, Origin: InFile}}
	}
}

// readCeiling reads the ceiling. If it cannot be read, it stays as it was last known.
func (r *Reader) readCeiling(readFile func(string) ([]byte, error)) error {
	if r.under == "" {
		return nil
	}
	content, err := readFile(r.under)
	if err != nil {
		return ceilingError(r.under, err)
	}
	if sum := sha256.Sum256(content); sum == r.ceiling.sum {
		return nil
	}
	c, err := ParseCeiling(r.under, content)
	if err == nil {
		r.ceiling = c
	}
	return err
}
