package rules

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vifproxy/internal/await"
)

// lists writes files below a directory, each in one step. A text of "-" removes one.
func lists(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if text == "-" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		temp := filepath.Join(dir, ".new")
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(temp, []byte(text), 0o644), os.Rename(temp, path)); err != nil {
			t.Fatal(err)
		}
	}
}

// said returns what a file says, line by line, with the list that has the line.
func said(f File) string {
	var all []string
	for _, e := range f.Entries() {
		all = append(all, fmt.Sprintf("%s:%d:%s", filepath.Base(e.Part), e.Line, e.Entry()))
	}
	for _, p := range f.Ports {
		all = append(all, fmt.Sprintf("%s:%d:port %d", filepath.Base(p.Part), p.Line, p.Number))
	}
	for _, e := range f.Egress {
		all = append(all, fmt.Sprintf("%s:%d:%v", filepath.Base(e.Part), e.Line, e))
	}
	return strings.Join(all, " ")
}

func TestInclude(t *testing.T) {
	const names = "#: format domains\n"
	deep := map[string]string{"work": names + "#: include d1\n"}
	for i := range 9 {
		deep[fmt.Sprintf("lists.d/d%d", i+1)] = fmt.Sprintf(names+"#: include d%d\nd%[1]d.example\n", i+2)
	}
	deep["lists.d/d9"] = names
	many := map[string]string{"work": names}
	for i := range 65 {
		many["work"] += fmt.Sprintf("#: include m%d\n", i)
		many[fmt.Sprintf("lists.d/m%d", i)] = names
	}
	long := strings.Repeat("#"+strings.Repeat("x", 400)+"\n", 2000)
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string // what it says, or what is wrong
	}{
		{"one", map[string]string{"work": names + "a.example\n#: include social\n", "lists.d/social": names + "# mine\nb.example:22\n#: egress 192.168.1.5/32:81\n"},
			".:2:a.example social:3:b.example:22 social:3:port 22 social:4:192.168.1.5/32:81"},
		{"patterns", map[string]string{"work": "#: include social\n^a$\n", "lists.d/social": "^b$\n"}, "social:1:^b$ .:2:^a$"},
		{"several, twice and nested", map[string]string{"work": names + "#: include a\n#: include b\n#: include a\n", "lists.d/a": names + "#: include b\na.example\n", "lists.d/b": names + "b.example\n"},
			"b:2:b.example a:3:a.example"},
		{"one without entries", map[string]string{"work": names + "#: include a\nb.example\n", "lists.d/a": "#: port 22\n"}, ".:3:b.example a:1:port 22"},
		{"no list", map[string]string{"work": names + "b.example\n#: include a\n"}, "DIR/work.10.137.22.2:3: there is no DIR/lists.d/a (write that list, or remove the line)"},
		{"no list of a list", map[string]string{"work": names + "#: include a\n", "lists.d/a": names + "#: include b\n"}, "DIR/lists.d/a:2: there is no DIR/lists.d/b (write that list, or remove the line)"},
		{"a mistake", map[string]string{"work": names + "#: include a\n", "lists.d/a": names + "\nbank example\n"}, `DIR/lists.d/a:3: more than one name in "bank example" (write one name a line; a comment begins with '#')`},
		{"a bad pattern", map[string]string{"work": "#: include a\n", "lists.d/a": "x\ny\n[\n"}, `DIR/lists.d/a:3: "[" opens a bracket that nothing closes (close it, or write \[)`},
		{"itself", map[string]string{"work": "#: include a\n", "lists.d/a": "#: include b\n", "lists.d/b": "\n#: include a\n"},
			"DIR/lists.d/b:2: a list includes itself: a, which includes b, which includes a (remove one of these lines)"},
		{"another format", map[string]string{"work": names + "#: include a\n", "lists.d/a": "^b$\n"},
			`DIR/work.10.137.22.2:2: DIR/lists.d/a is a list of patterns, and this one is of names (begin both with the same format, such as "#: format domains")`},
		{"the format too late", map[string]string{"work": "#: include a\n" + names, "lists.d/a": "^b$\n"}, "DIR/work.10.137.22.2:2: the format is chosen too late (choose it above the first entry)"},
		{"the format of a list behind patterns", map[string]string{"work": names + "w.example\n#: include a\n", "lists.d/a": "#: include b\n" + names, "lists.d/b": "b\\.example\n"},
			"DIR/lists.d/a:2: the format is chosen too late (choose it above the first entry)"},
		{"the format behind a list without entries", map[string]string{"work": names + "w.example\n#: include a\n", "lists.d/a": "#: include b\n" + names + "a.example\n", "lists.d/b": "#: port 22\n"},
			".:2:w.example a:3:a.example b:1:port 22"},
		{"a path", map[string]string{"work": "#: include ../work.10.137.22.2\n"}, `DIR/work.10.137.22.2:1: "../work.10.137.22.2" is not the name of a list in lists.d (a name is a letter or digit and then up to 62 letters, digits, '_', '-' or '.')`},
		{"a hidden one", map[string]string{"work": "#: include .a\n"}, `DIR/work.10.137.22.2:1: ".a" is not the name of a list in lists.d (a name is a letter or digit and then up to 62 letters, digits, '_', '-' or '.')`},
		{"a directory", map[string]string{"work": "#: include a\n", "lists.d/a/b": ""}, "DIR/lists.d/a: is not a regular file (replace it with one, or remove it)"},
		{"too deep", deep, "DIR/lists.d/d8:2: lists include one another more than 8 deep (include the last ones in the rule file)"},
		{"too many", many, "DIR/work.10.137.22.2:66: more than 64 lists are included (make one list of several)"},
		{"too long", map[string]string{"work": "#: include a\n#: include b\n", "lists.d/a": long, "lists.d/b": long}, "DIR/work.10.137.22.2:2: with DIR/lists.d/b, the list is larger than 1024 KiB (shorten it)"},
		{"more ports than a list may have", map[string]string{"work": "#: include a\n#: port 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19\n", "lists.d/a": "#: port 101 102 103 104 105 106 107 108 109 110 111 112 113 114\n"},
			"DIR/work.10.137.22.2:2: more than 32 different ports (open those that are needed)"},
	} {
		dir := t.TempDir()
		files := map[string]string{}
		for name, text := range tt.files {
			if name == "work" {
				name = "work.10.137.22.2"
			}
			files[name] = text
		}
		lists(t, dir, files)
		check := func(how string, f File, err error) {
			t.Helper()
			if err == nil {
				_, err = f.Lines(Syntax{})
			}
			got := said(f)
			if err != nil {
				got = strings.ReplaceAll(err.Error(), dir, "DIR")
			}
			if got != tt.want {
				t.Errorf("%s, %s:\n%s\nwant\n%s", tt.name, how, got, tt.want)
			}
		}
		path := filepath.Join(dir, "work.10.137.22.2")
		f, err := ParseFile(path, []byte(files["work.10.137.22.2"]))
		check("parsed", f, err)
		for how, read := range map[string]func() (Set, error){
			"read": func() (Set, error) { return Read(dir, filepath.Join(dir, "config")) },
			"read by Reader": func() (set Set, err error) {
				r := NewReader(dir, filepath.Join(dir, "config"))
				await.Success(t, "the lists are read in the time that Reader has", func() error {
					set, err = r.Read()
					return err
				})
				return set, err
			},
		} {
			set, err := read()
			switch {
			case err != nil || len(set.Files)+len(set.Refused) != 1:
				t.Errorf("%s, %s: %+v, %v", tt.name, how, set, err)
			case len(set.Refused) == 1:
				check(how, File{}, set.Refused[0].Err)
			default:
				check(how, set.Files[0], nil)
			}
		}
	}
}

// Who may not include says so.
func TestOnlyRuleFilesInclude(t *testing.T) {
	l := List{Name: "work", Addr: netip.MustParseAddr("10.137.22.2"), Path: "/vm-config/x", Lines: []string{"#: include a"}}
	if _, err := l.Parse(); err == nil || !strings.Contains(err.Error(), "only rule files can include lists") {
		t.Error(err)
	}
	if _, err := ParseCeiling("/top", []byte("#: include a\n")); err == nil || !strings.Contains(err.Error(), "/top:1: only rule files can include lists") {
		t.Error(err)
	}
}

// A Reader notices that an included list has changed, and gives it to all who include it. A list that is not complete refuses these alone.
func TestReaderOfIncludedLists(t *testing.T) {
	dir := t.TempDir()
	lists(t, dir, map[string]string{
		"work.10.137.22.2": "#: include a\n^w$\n", "play.10.137.22.3": "#: include a\n", "other.10.137.22.4": "^o$\n", "lists.d/a": "^a$\n",
	})
	r := NewReader(dir, filepath.Join(dir, "config"))
	read := func(want ...string) Set {
		t.Helper()
		set, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range set.Files {
			got = append(got, f.Name+" "+said(f))
		}
		for _, f := range set.Refused {
			got = append(got, f.Name+" "+strings.ReplaceAll(f.Err.Error(), dir, "DIR"))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q\nwant %q", got, want)
		}
		return set
	}
	before := read("other .:1:^o$", "play a:1:^a$", "work a:1:^a$ .:2:^w$")
	work, _ := before.Find("work")
	if r.Changed(work.Addr) {
		t.Error("changed, just after it was read")
	}
	lists(t, dir, map[string]string{"lists.d/a": "^b$\n"})
	if !r.Changed(work.Addr) {
		t.Error("not changed")
	}
	now := read("other .:1:^o$", "play a:1:^b$", "work a:1:^b$ .:2:^w$")
	for i, f := range now.Files {
		if f.Same(before.Files[i]) != (f.Name == "other") {
			t.Errorf("%s: the same is %v", f.Name, f.Same(before.Files[i]))
		}
	}
	lists(t, dir, map[string]string{"lists.d/a": "-"})
	if !r.Changed(work.Addr) {
		t.Error("not changed by a removal")
	}
	const gone = "there is no DIR/lists.d/a (write that list, or remove the line)"
	read("other .:1:^o$", "play DIR/play.10.137.22.3:1: "+gone, "work DIR/work.10.137.22.2:1: "+gone)

	file, err := os.Create(filepath.Join(dir, "lists.d", "a"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(file, "^c$")
	const writing = "DIR/lists.d/a: is open for writing: what it said before stays in force (close it in the program that writes it)"
	for _, f := range read("other .:1:^o$", "play "+writing, "work "+writing).Refused {
		if flaw := (*Error)(nil); !errors.As(f.Err, &flaw) || !flaw.Unsettled {
			t.Errorf("%s: %v", f.Name, f.Err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	now = read("other .:1:^o$", "play a:1:^c$", "work a:1:^c$ .:2:^w$")
	lists(t, dir, map[string]string{"lists.d/a": ""})
	if empty, err := r.Read(); err != nil || !empty.Truncated(now) {
		t.Errorf("a list that has become empty: %v", err)
	}
}

// FuzzInclude: whatever lists say, reading ends, is complete or not at all, and every line comes from the file that has it.
func FuzzInclude(f *testing.F) {
	f.Add("#: format domains\n#: include a\n", "#: format domains\n#: include b\na.example\n", "#: format domains\nb.example:22\n")
	f.Add("#: include a\n#: include b\n^x$", "#: include b\n", "#: include a\n")
	f.Add("#: include a\n", "\ufeff#: port 1\r\n", "")
	f.Add("#: format domains\n#: include a\n", "#: include b\n#: format domains\n", "b\\.example\n")
	f.Fuzz(func(t *testing.T, work, a, b string) {
		files := map[string]string{"/r/work.10.137.22.2": work, "/r/lists.d/a": a, "/r/lists.d/b": b}
		read := func(path string) ([]byte, error) {
			text, ok := files[path]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return []byte(text), nil
		}
		file, err := parseFile("/r/work.10.137.22.2", []byte(work), read)
		collected := shared{}
		paths := collected.collect("/r/lists.d", []byte(work), read)
		again, err2 := parseFile("/r/work.10.137.22.2", []byte(work), collected.read)
		if fmt.Sprint(err) != fmt.Sprint(err2) || said(file) != said(again) {
			t.Fatalf("%v\n%v", err, err2)
		}
		if err != nil {
			return
		}
		for _, e := range file.Entries() {
			if _, flaw := parseEntry(e.Text); file.Names() && flaw != nil {
				t.Errorf("a name that is none: %q", e.Text)
			}
		}
		for _, part := range file.Included {
			if !slices.Contains(paths, part) {
				t.Errorf("%s was not collected", part)
			}
			if _, ok := files[part]; !ok {
				t.Errorf("%s was included", part)
			}
		}
		count := 0
		for i, part := range file.Parts() {
			count += len(part.Entries()) + len(part.Ports) + len(part.Egress)
			if (i == 0) != (part.Path == file.Path) {
				t.Errorf("part %d is %s", i, part.Path)
			}
			lines := SourceLines([]byte(files[part.Path]))
			for _, e := range part.Entries() {
				if e.Line < 1 || e.Line > len(lines) || strings.Trim(lines[e.Line-1], " \t") != e.Source {
					t.Errorf("%s:%d is not %q", part.Path, e.Line, e.Source)
				}
			}
		}
		if count != len(file.Entries())+len(file.Ports)+len(file.Egress) {
			t.Error("parts are not the whole")
		}
	})
}
