package regular

import (
	"errors"
	"os"
	"path/filepath"
)

// WriteNew makes a file whole or not at all, because nobody must read half of a rule file. It replaces none.
func WriteNew(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // hidden: no rule file
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path) // unlike a rename, it fails where something is
}
