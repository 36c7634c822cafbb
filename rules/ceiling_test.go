package rules

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A Reader keeps the ceiling as it was last read, tells whether it has changed, and says why it cannot be read.
func TestReaderOfACeiling(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "top")
	r := NewReader(filepath.Join(dir, "rules"), filepath.Join(dir, "rules", "config"))
	r.Under(path)
	read := func(want string, entries int) Set {
		t.Helper()
		set, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if set.CeilingErr != nil {
			got = set.CeilingErr.Error()
		}
		if got != want || len(set.Ceiling.Entries()) != entries || set.Ceiling.Path != path {
			t.Errorf("%q, %+v; want %q, %d entries", got, set.Ceiling, want, entries)
		}
		if r.Changed() {
			t.Error("changed, just after it was read")
		}
		return set
	}
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o644), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
		if !r.Changed() {
			t.Error("not changed")
		}
	}
	read(path+": is not there, and no list may go beyond it (write it like a rule file, or remove the option --ceiling)", 0)
	write("#: format domains\nbank.example\n*.shop.example\n")
	good := read("", 2)
	if again := read("", 2); again.Ceiling != good.Ceiling {
		t.Error("the same ceiling is another one")
	}
	write("#: format domains\nbank example\n")
	read(path+`:2: more than one name in "bank example" (write one name a line; a comment begins with '#')`, 2)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	read(path+": is not there, and no list may go beyond it (write it like a rule file, or remove the option --ceiling)", 2)
	write("")
	if empty := read("", 0); !empty.Truncated(good) || good.Truncated(empty) || empty.Truncated(Set{}) {
		t.Error("it has become empty")
	}
}
