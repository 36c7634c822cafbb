package rules

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
)

// print shows a set with paths relative to the directory.
func (s Set) print(dir string) string {
	var b strings.Builder
	for _, f := range s.Files {
		fmt.Fprintf(&b, "%s %s %q\n", f.Name, f.Addr, show(f, Syntax{}))
	}
	for _, r := range s.Refused {
		text, _, _ := strings.Cut(r.Err.Error(), " (") // what there is to do is left out
		fmt.Fprintf(&b, "%q %v: %s\n", r.Name, r.Addr, text)
	}
	switch {
	case s.TemplateErr != nil:
		fmt.Fprintf(&b, "%v\n", s.TemplateErr)
	case s.Template.Path == "":
		b.WriteString("built-in template\n")
	default:
		fmt.Fprintf(&b, "template %s\n", s.Template.Path)
	}
	return strings.ReplaceAll(b.String(), dir+"/", "")
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"social.10.137.2.13":   "^s$",
		"a-b.10.137.2.1":       "^ab$",
		"a.10.137.2.2":         "^a$",
		"work.10.137.2.13.bak": "x y",
		"config":               needed,
		"notes.txt":            "x y",
		"bad.10.137.2.3":       "^a$\nx y",
		"wrong.10.137.2.300":   "^a$",
		"six.fd00::1":          "^a$",
		"dup.10.137.2.4":       "^a$",
		"dup.10.137.2.5":       "x y",
		"one.10.137.2.6":       "^a$",
		"two.10.137.2.6":       "^a$",
		"big.10.137.2.7":       strings.Repeat("#\n", sizeMax),
		"elsewhere":            "^linked$",
	} {
		write(t, filepath.Join(dir, name), content)
	}
	must(t, os.Mkdir(filepath.Join(dir, "dir.10.137.2.8"), 0o755))
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo.10.137.2.9"), 0o644))
	must(t, os.Symlink("elsewhere", filepath.Join(dir, "link.10.137.2.10")))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling.10.137.2.11")))
	must(t, os.Symlink("loop.10.137.2.12", filepath.Join(dir, "loop.10.137.2.12")))
	must(t, os.Symlink("/dev/null", filepath.Join(dir, "null.10.137.2.14")))

	set, err := Read(dir, filepath.Join(dir, "config"))
	must(t, err)
	const want = `a 10.137.2.2 "1 ^a$\n"
a-b 10.137.2.1 "1 ^ab$\n"
link 10.137.2.10 "1 ^linked$\n"
social 10.137.2.13 "1 ^s$\n"
"bad" 10.137.2.3: bad.10.137.2.3:2: white space inside "x y"; tinyproxy would cut it to "x"
"big" 10.137.2.7: big.10.137.2.7: is larger than 1024 KiB
"dangling" 10.137.2.11: dangling.10.137.2.11: cannot be opened: no such file or directory
"dir" 10.137.2.8: dir.10.137.2.8: is not a regular file
"dup" 10.137.2.4: dup.10.137.2.4: the VM name dup is also that of dup.10.137.2.5
"dup" 10.137.2.5: dup.10.137.2.5: the VM name dup is also that of dup.10.137.2.4
"fifo" 10.137.2.9: fifo.10.137.2.9: is not a regular file
"loop" 10.137.2.12: loop.10.137.2.12: cannot be opened: too many levels of symbolic links
"null" 10.137.2.14: null.10.137.2.14: is not a regular file
"one" 10.137.2.6: one.10.137.2.6: the address 10.137.2.6 is also that of two.10.137.2.6
"six" fd00::1: six.fd00::1: IPv6 addresses are not supported yet
"two" 10.137.2.6: two.10.137.2.6: the address 10.137.2.6 is also that of one.10.137.2.6
"wrong" invalid IP: wrong.10.137.2.300: "10.137.2.300" is not an IPv4 address
template config
`
	if got := set.print(dir); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestReadWithoutDirectory(t *testing.T) {
	dir := t.TempDir()
	set, err := Read(filepath.Join(dir, "a/b"), filepath.Join(dir, "a/b/config"))
	must(t, err)
	if got := set.print(dir); got != "built-in template\n" {
		t.Error(got)
	}
}

// What cannot be read must not pass for what is not there.
func TestReadFails(t *testing.T) {
	dir := t.TempDir()
	file, dangling := filepath.Join(dir, "file"), filepath.Join(dir, "dangling")
	write(t, file, "")
	must(t, os.Symlink("/nonexistent/rules", dangling))
	for _, path := range []string{file, filepath.Join(file, "rules"), dangling} {
		if set, err := Read(path, filepath.Join(dir, "config")); err == nil {
			t.Errorf("%s: no error, but %+v", path, set)
		}
	}
	for _, path := range []string{dir, dangling, filepath.Join(file, "config")} {
		set, err := Read(dir, path)
		must(t, err)
		if set.TemplateErr == nil {
			t.Errorf("template %s: no error", path)
		}
	}
}

// What was listed and has gone when it is opened was deleted, or the whole directory is another one now, or none:
// the next list tells.
func TestReadWhileItChanges(t *testing.T) {
	// at is what happens at the nth attempt to open a file.
	at := map[string]func(t *testing.T, dir string, n int){
		"deleted": func(t *testing.T, dir string, n int) {
			if n == 1 {
				must(t, os.Remove(filepath.Join(dir, "a.10.137.2.1")))
			}
		},
		"replaced": func(t *testing.T, dir string, n int) {
			if n == 2 {
				must(t, os.Rename(dir, dir+".old"))
				must(t, os.Mkdir(dir, 0o755))
				write(t, filepath.Join(dir, "c.10.137.2.3"), "^c$")
			}
		},
		"removed": func(t *testing.T, dir string, n int) { must(t, os.RemoveAll(dir)) },
		"not mounted": func(t *testing.T, dir string, n int) {
			if n == 1 {
				must(t, os.Rename(dir, dir+".old"))
				must(t, os.Symlink("/nonexistent/rules", dir))
			}
		},
		"never at rest": func(t *testing.T, dir string, n int) { // each listed file is gone, and another one there
			names, err := os.ReadDir(dir)
			must(t, err)
			must(t, os.Rename(filepath.Join(dir, names[0].Name()), filepath.Join(dir, fmt.Sprintf("x%d.10.137.3.%[1]d", n))))
		},
	}
	want := map[string]string{
		"deleted":       "b 10.137.2.2 \"1 ^b$\\n\"\n",
		"replaced":      "c 10.137.2.3 \"1 ^c$\\n\"\n",
		"removed":       "",
		"not mounted":   "error",
		"never at rest": "error",
	}
	for name, change := range at {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "rules")
			must(t, os.Mkdir(dir, 0o755))
			write(t, filepath.Join(dir, "a.10.137.2.1"), "^a$")
			write(t, filepath.Join(dir, "b.10.137.2.2"), "^b$")
			n := 0
			set, err := read(dir, filepath.Join(dir, "config"), func(path string) ([]byte, error) {
				n++
				change(t, dir, n)
				return ReadFile(path)
			})
			got := strings.TrimSuffix(set.print(dir), "built-in template\n")
			if err != nil {
				got = "error"
			}
			if got != want[name] {
				t.Errorf("got %q, %v; want %q", got, err, want[name])
			}
		})
	}
}

func TestReadBadTemplate(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "config"), "Port {prt}\n")
	write(t, filepath.Join(dir, "social.10.137.2.13"), "^s$")
	set, err := Read(dir, filepath.Join(dir, "config"))
	must(t, err)
	const want = `social 10.137.2.13 "1 ^s$\n"` + "\n" + `config:1: unknown placeholder "{prt}"`
	if got := set.print(dir); !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s\nwant\n%s…", got, want)
	}
}

// Who has root's group but is not root, as vifproxyd by its unit, reads what that group may. What it may not is
// refused, and never taken for absent.
func TestReadWithoutBeingRoot(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	for name, mode := range map[string]fs.FileMode{
		"all.10.137.2.1": 0o644, "group.10.137.2.2": 0o640, "root.10.137.2.3": 0o600, "config": 0o600,
	} {
		write(t, filepath.Join(dir, name), "^a$\n")
		must(t, os.Chmod(filepath.Join(dir, name), mode))
	}
	closed := filepath.Join(dir, "closed")
	must(t, os.Mkdir(closed, 0o700))
	// For files a thread is who its file-system uid says, with root's privileges gone too (capabilities(7)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	must(t, unix.Setfsuid(65534))
	defer unix.Setfsuid(0) //nolint:errcheck // back to the thread's own
	set, err := Read(dir, filepath.Join(dir, "config"))
	must(t, err)
	const want = `all 10.137.2.1 "1 ^a$\n"
group 10.137.2.2 "1 ^a$\n"
"root" 10.137.2.3: root.10.137.2.3: cannot be opened: permission denied
config: cannot be opened: permission denied (` + openToGroup + ")\n"
	if got := set.print(dir); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if text := set.Refused[0].Err.Error(); !strings.HasSuffix(text, "("+openToGroup+")") {
		t.Error(text)
	}
	_, err = Read(closed, filepath.Join(dir, "config"))
	if err == nil || !strings.HasSuffix(err.Error(), "permission denied ("+openToGroup+")") {
		t.Errorf("a directory of root's: %v", err)
	}
}

// A directory that takes the place of the listed one is listed in its turn: what is deleted of the other meanwhile says
// nothing.
func TestDirectoryReplacedWhileItIsRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rules")
	next := dir + ".new"
	write := func(dir string, names ...string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("a\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(dir, "a.10.0.0.1", "b.10.0.0.2")
	write(next, "a.10.0.0.1", "b.10.0.0.2", "c.10.0.0.3")
	swapped := false
	set, err := read(dir, "", func(path string) ([]byte, error) {
		if !swapped {
			swapped = true
			if err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
			}
		}
		return ReadFile(path)
	})
	if err != nil || len(set.Files) != 3 {
		t.Errorf("%d files, %v", len(set.Files), err)
	}
}

// TestLateAnswersAreGiven, to whom they help, when nobody waits for them any more.
func TestLateAnswersAreGiven(t *testing.T) {
	token, goOn, late := make(chan struct{}, 1), make(chan struct{}), make(chan int, 1)
	slow := func() int { <-goOn; return 7 }
	if _, ok := inTime(token, func(n int) { late <- n }, slow); ok {
		t.Fatal("it is done before it can be")
	}
	close(goOn)
	if n := await.Value(t, "the late answer", late); n != 7 {
		t.Error(n)
	}
	if n, ok := inTime(token, func(int) { t.Error("told of what was waited for") }, slow); !ok || n != 7 {
		t.Error(n, ok)
	}
}

// A list that takes longer than a Read has time for is in force in the end: its lines are looked at once.
func TestReaderParsesTheSameBytesOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "long.10.137.2.14")
	write(t, path, "^a$\n")
	r := NewReader(dir, filepath.Join(dir, "config"))
	read := func(want int) (set Set) {
		t.Helper()
		set, err := r.Read()
		must(t, err)
		if len(set.Files)+len(set.Refused) != want || len(r.parsed) != want {
			t.Fatalf("%+v, and kept is %+v", set, r.parsed)
		}
		return set
	}
	read(1)
	kept := r.parsed[path]
	kept.file.Ports = []Port{{Number: 7}} // as nothing in the file says
	r.parsed[path] = kept
	if set := read(1); len(set.Files[0].Ports) != 1 {
		t.Errorf("it was parsed again: %+v", set.Files)
	}
	write(t, path, "^b c$\n")
	if set := read(1); len(set.Refused) != 1 {
		t.Errorf("what it was is believed still: %+v", set.Files)
	}
	read(1)
	write(t, path, "^b$\n")
	if set := read(1); len(set.Files) != 1 || len(set.Files[0].Ports) != 0 {
		t.Errorf("%+v", set)
	}
	must(t, os.Remove(path))
	read(0)
}

// A Reader sees every way in which what it read can become something else.
func TestReaderSeesChanges(t *testing.T) {
	top := t.TempDir()
	dir, elsewhere := filepath.Join(top, "rules"), filepath.Join(top, "elsewhere")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.Mkdir(elsewhere, 0o755))
	social, work := netip.MustParseAddr("10.137.2.13"), netip.MustParseAddr("10.137.2.14")
	target := filepath.Join(elsewhere, "list")
	path, other, config := filepath.Join(dir, "social.10.137.2.13"), filepath.Join(dir, "work.10.137.2.14"), filepath.Join(dir, "config")
	write(t, target, "a\n")
	write(t, other, "a\n")
	must(t, os.Symlink(target, path))
	r := NewReader(dir, config)
	for _, step := range []struct {
		what string
		do   func()
		of   netip.Addr
	}{
		{"written behind a link", func() { write(t, target, "ab\n") }, social},
		{"replaced behind a link", func() { write(t, target+".new", "ac\n"); must(t, os.Rename(target+".new", target)) }, social},
		{"written", func() { write(t, other, "ab\n") }, work},
		{"removed behind a link", func() { must(t, os.Remove(target)) }, social},
		{"made behind a link", func() { write(t, target, "a\n") }, social},
		{"the template comes", func() { write(t, config, needed) }, work},
		{"another file comes", func() { write(t, filepath.Join(dir, "more.10.137.2.14"), "") }, work},
		{"the directory goes", func() { must(t, os.Rename(dir, dir+".away")) }, social},
		{"and comes", func() { must(t, os.Rename(dir+".away", dir)) }, social},
	} {
		_, err := r.Read()
		must(t, err)
		if r.Changed(social, work) {
			t.Errorf("before %s: changed", step.what)
		}
		time.Sleep(10 * time.Millisecond) // a tick of the clock that the kernel stamps files with
		step.do()
		if !r.Changed(step.of) {
			t.Errorf("%s: not changed", step.what)
		}
	}
	// One that cannot be read has changed once.
	must(t, os.RemoveAll(dir))
	write(t, dir, "")
	if _, err := r.Read(); err == nil || r.Changed(social, work) {
		t.Errorf("a file in the place of the directory: %v, changed: %v", err, r.Changed(social, work))
	}
}

// TestLinkToAFileWithoutEnd concerns nobody else: all other files are read, and after its removal too.
func TestLinkToAFileWithoutEnd(t *testing.T) {
	if file, err := os.Open("/proc/kmsg"); err != nil { // regular, and who reads it waits for the kernel's next message
		t.Skip(err)
	} else {
		file.Close()
	}
	dir := t.TempDir()
	link := filepath.Join(dir, "bad.10.137.42.1")
	write(t, filepath.Join(dir, "good.10.137.42.2"), "^good$\n")
	write(t, filepath.Join(dir, "other.10.137.42.3"), "^other$\n")
	must(t, os.Symlink("/proc/kmsg", link))
	r := NewReader(dir, filepath.Join(dir, "none"))
	for _, refused := range []int{1, 1, 0} {
		if refused == 0 {
			must(t, os.Remove(link))
		}
		set, err := r.Read()
		if err != nil || len(set.Files) != 2 || len(set.Refused) != refused {
			t.Fatalf("%d files, refused %v, error %v", len(set.Files), set.Refused, err)
		}
	}
}
