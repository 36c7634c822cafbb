package watchfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
)

// A tree of files in which paths are watched.
type tree struct {
	*testing.T
	dir     string
	changed chan struct{}
	reports chan error
}

func (t *tree) must(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t *tree) path(name string) string { return filepath.Join(t.dir, name) }
func (t *tree) write(name, text string) {
	t.Helper()
	t.must(os.WriteFile(t.path(name), []byte(text), 0o644))
}
func (t *tree) mkdir(name string)      { t.Helper(); t.must(os.MkdirAll(t.path(name), 0o755)) }
func (t *tree) remove(name string)     { t.Helper(); t.must(os.RemoveAll(t.path(name))) }
func (t *tree) rename(old, new string) { t.Helper(); t.must(os.Rename(t.path(old), t.path(new))) }

// link makes name lead to target by a rename, as `ln -sfn` does not and Kubernetes does.
func (t *tree) link(target, name string) {
	t.Helper()
	t.must(os.Symlink(target, t.path(name+".new")))
	t.rename(name+".new", name)
}

func watch(t *testing.T, paths ...string) *tree {
	w := &tree{t, t.TempDir(), make(chan struct{}, 1), make(chan error, 10000)}
	return w.watch(func() (all []string) {
		for _, path := range paths {
			all = append(all, w.path(path))
		}
		return all
	})
}

func (t *tree) watch(paths func() []string) *tree {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Watch{Paths: paths, Changed: func() {
			select {
			case t.changed <- struct{}{}:
			default:
			}
		}, Report: func(err error) { t.reports <- err }}.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		if err := await.Value(t, "the end of watching", done); err != nil {
			t.Error(err)
		}
	})
	await.Value(t, "the first change", t.changed)
	return t
}

// reads waits until the file is what it should be, looking at it only when told.
func (t *tree) reads(name, want string) {
	t.Helper()
	for late := time.After(retry - time.Second); ; {
		select {
		case <-t.changed:
		case <-late:
			t.Fatalf("not told: %s should read %q", name, want)
		}
		text, err := os.ReadFile(t.path(name))
		if err != nil {
			text = []byte("none")
			if errors.Is(err, syscall.ELOOP) {
				text = []byte("loop")
			}
		}
		if string(text) == want {
			return
		}
	}
}

func TestEveryWayInWhichAFileChanges(t *testing.T) {
	for _, step := range []struct {
		what string
		make func(*tree) // so that the file reads "old"
		do   func(*tree) // so that it reads "new"
	}{
		{"written behind a link", func(t *tree) { t.write("real", "old"); t.link("real", "f") }, func(t *tree) { t.write("real", "new") }},
		{"replaced behind two links in other directories",
			func(t *tree) {
				t.mkdir("a")
				t.mkdir("b")
				t.write("b/real", "old")
				t.link("../b/real", "a/l")
				t.link("a/l", "f")
			},
			func(t *tree) { t.write("b/x", "new"); t.rename("b/x", "b/real") }},
		{"a link in the middle leads elsewhere",
			func(t *tree) {
				t.mkdir("a")
				t.write("old", "old")
				t.write("new", "new")
				t.link("../old", "a/l")
				t.link(t.path("a/l"), "f")
			},
			func(t *tree) { t.link("../new", "a/l") }},
		{"the swap of Kubernetes",
			func(t *tree) { t.mkdir("v1"); t.write("v1/f", "old"); t.link("v1", "data"); t.link("data/f", "f") },
			func(t *tree) { t.mkdir("v2"); t.write("v2/f", "new"); t.link("v2", "data"); t.remove("v1") }},
		{"ln -sfn of a directory, as stow has it",
			func(t *tree) { t.mkdir("p1/d"); t.write("p1/d/f", "old"); t.link("p1/d", "d"); t.link("d/f", "f") },
			func(t *tree) {
				t.mkdir("p2/d")
				t.write("p2/d/f", "new")
				t.remove("d")
				t.must(os.Symlink("p2/d", t.path("d")))
			}},
		{"a directory becomes a link",
			func(t *tree) { t.mkdir("d"); t.write("d/f", "old"); t.link("d/f", "f") },
			func(t *tree) { t.mkdir("e"); t.write("e/f", "new"); t.rename("d", "gone"); t.link("e", "d") }},
		{"a directory far above is renamed, and another takes its place",
			func(t *tree) { t.mkdir("a/b/c"); t.write("a/b/c/f", "old"); t.link("a/b/c/f", "f") },
			func(t *tree) { t.mkdir("x/b/c"); t.write("x/b/c/f", "new"); t.rename("a", "gone"); t.rename("x", "a") }},
		{"a directory is removed and made again",
			func(t *tree) { t.mkdir("a/b"); t.write("a/b/f", "old"); t.link("a/b/f", "f") },
			func(t *tree) { t.remove("a"); t.mkdir("a/b"); t.write("a/b/f", "new") }},
		{"written through another name",
			func(t *tree) { t.mkdir("d"); t.write("d/f", "old"); t.must(os.Link(t.path("d/f"), t.path("f"))) },
			func(t *tree) { t.write("d/f", "new") }},
		{"removed behind a link", func(t *tree) { t.write("real", "old"); t.link("real", "f") },
			func(t *tree) { t.remove("real"); t.reads("f", "none"); t.write("real", "new") }},
		{"a link that leads nowhere, to directories that come one by one",
			func(t *tree) { t.write("f", "old") },
			func(t *tree) {
				t.link("a/b/c/f", "f")
				t.reads("f", "none")
				t.mkdir("a")
				t.mkdir("a/b")
				t.mkdir("a/b/c")
				t.write("a/b/c/f", "new")
			}},
		{"a loop of links comes and goes", func(t *tree) { t.write("f", "old") },
			func(t *tree) {
				t.link("g", "f")
				t.link("f", "g")
				t.reads("f", "loop")
				t.remove("g")
				t.write("g", "new")
			}},
		{"40 links", func(t *tree) {
			t.write("0", "old")
			for i := range 39 {
				t.link(fmt.Sprint(i), fmt.Sprint(i+1))
			}
			t.link("39", "f")
		}, func(t *tree) { t.write("new", "new"); t.link("new", "20") }},
		{"truncated by name", func(t *tree) { t.write("real", "newer"); t.link("real", "f") },
			func(t *tree) { t.must(os.Truncate(t.path("real"), 3)) }},
		{"made readable", func(t *tree) { t.write("real", "new"); t.must(os.Chmod(t.path("real"), 0)); t.link("real", "f") },
			func(t *tree) { t.must(os.Chmod(t.path("real"), 0o644)) }},
	} {
		t.Run(step.what, func(t *testing.T) {
			t.Parallel()
			w := &tree{t, t.TempDir(), make(chan struct{}, 1), make(chan error, 10000)}
			step.make(w)
			w.watch(func() []string { return []string{w.path("f")} })
			step.do(w)
			w.reads("f", "new")
			for len(w.reports) > 0 {
				if err := <-w.reports; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// What happens beside a path, and reading, is no news, and neither is a renewal: it must come to rest. The kernel queues an event before the
// call that causes it returns.
func TestNothingIsToldOfOtherFiles(t *testing.T) {
	w := &tree{T: t, dir: t.TempDir()}
	w.mkdir("d")
	w.write("d/f", "old")
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	w.must(err)
	defer unix.Close(fd)
	r := &run{Watch: Watch{Paths: func() []string { return []string{w.path("d/f")} }}, fd: fd}
	w.must(r.renew())
	news := func() (told string) {
		buffer := make([]byte, eventSize)
		for {
			n, err := unix.Read(fd, buffer)
			if errors.Is(err, unix.EAGAIN) {
				return told
			}
			w.must(err)
			moved, changed, writing := r.look(buffer[:n])
			for what, so := range map[string]bool{"moved": moved, "changed": changed, "writing": writing} {
				if so && !strings.Contains(told, what) {
					told += what + " "
				}
			}
		}
	}
	for range 3 {
		w.write("d/other", "x")
		w.write("beside", "x")
		w.mkdir("e")
		w.remove("e")
		if _, err := os.ReadFile(w.path("d/f")); err != nil {
			t.Error(err)
		}
		w.must(r.renew())
		if told := news(); told != "" {
			t.Errorf("told of another file, of reading or of a renewal: %s", told)
		}
	}
	w.write("d/f", "new")
	if told := news(); !strings.Contains(told, "changed") {
		t.Errorf("a change is not seen: %q", told)
	}
	w.rename("d/other", "d/f")
	if told := news(); !strings.Contains(told, "moved") {
		t.Errorf("another file in its place is not seen: %q", told)
	}
}

// A file that is written in pieces is told of once a second, and when it is closed.
func TestFileThatIsBeingWritten(t *testing.T) {
	w := watch(t, "f")
	f, err := os.Create(w.path("f"))
	w.must(err)
	told := 0
	for end := time.Now().Add(modified); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		_, err := f.WriteString("x")
		w.must(err)
		select {
		case <-w.changed:
			told++
		default:
		}
	}
	if told > 3 {
		t.Errorf("told %d times in a second", told)
	}
	w.must(f.Close())
	await.Value(t, "the change when it was closed", w.changed)

	// It is told of that at once. A machine that is busy may be late now and then, and a look once a second each time.
	soonest := time.Hour
	for range 5 {
		f, err := os.OpenFile(w.path("f"), os.O_WRONLY, 0)
		w.must(err)
		_, err = f.WriteString("x")
		w.must(err)
		await.Value(t, "the change of a file that is open", w.changed)
		start := time.Now()
		w.must(f.Close())
		await.Value(t, "the change when it was closed", w.changed)
		soonest = min(soonest, time.Since(start))
	}
	if soonest > modified/2 {
		t.Errorf("told %v after it was closed", soonest)
	}
}

func TestMoreLinksThanAreWatched(t *testing.T) {
	w := &tree{t, t.TempDir(), make(chan struct{}, 1), make(chan error, 10000)}
	paths := []string{w.path("first")}
	for i := range 10000 {
		name := fmt.Sprint("d", i)
		if i < 2*watchesMax { // the others are not looked at
			w.mkdir(name)
			w.write(name+"/f", "old")
		}
		paths = append(paths, w.path(name+"/f"))
	}
	w.watch(func() []string { return paths })
	if err := await.Value(t, "a report", w.reports); err == nil || !strings.Contains(err.Error(), "more than 1024 directories and files to watch: ") {
		t.Errorf("reported: %v", err)
	}
	w.write("first", "new")
	w.reads("first", "new")
}

func TestFollow(t *testing.T) {
	w := &tree{T: t, dir: t.TempDir()}
	w.mkdir("a/b")
	w.write("a/f", "")
	w.link("b", "a/l")
	w.link("a/l", "l")
	w.link("loop", "loop")
	for path, want := range map[string]string{
		"a/f":        "a f = a/f",
		"./a//b/":    "a b = a/b",
		"a/l/../f":   "a l b f = a/f",
		"l/../f":     "l a l b f = a/f",
		"l":          "l a l b = a/b",
		"a/none/x":   "a none = ",
		"a/f/x":      "a f = ",
		"loop":       "loop",
		"a/b/../../": "a b = ",
	} {
		steps, end, err := follow(w.dir + "/" + path)
		var got []string
		for _, s := range steps {
			if strings.HasPrefix(filepath.Join(s.dir, s.name), w.dir+"/") {
				got = append(got, s.name)
			}
		}
		text := strings.Join(got, " ") + " = " + strings.TrimPrefix(strings.TrimPrefix(end, w.dir), "/")
		if path == "loop" {
			if !errors.Is(err, syscall.ELOOP) || len(got) != linksMax+1 {
				t.Errorf("loop: %v, %d steps", err, len(got))
			}
		} else if err != nil || text != want {
			t.Errorf("%s: %s, %v, want %s", path, text, err, want)
		}
	}
}

// TestMounts: what is mounted over a file, or over a directory on the way to it, hides it, and unmounting brings it back.
func TestMounts(t *testing.T) {
	w := &tree{t, t.TempDir(), make(chan struct{}, 1), make(chan error, 10000)}
	w.mkdir("etc/rules")
	w.mkdir("persistent/rules")
	w.write("etc/rules/work", "old")
	w.write("persistent/rules/work", "new")
	w.write("one", "one")
	w.watch(func() []string { return []string{w.path("etc/rules/work")} })
	for _, step := range []struct{ source, over, is string }{
		{"persistent", "etc", "new"}, {"one", "etc/rules/work", "one"}, {"persistent/rules", "etc/rules", "new"},
	} {
		if err := syscall.Mount(w.path(step.source), w.path(step.over), "", syscall.MS_BIND, ""); err != nil {
			t.Skipf("mount: %v", err)
		}
		over := w.path(step.over)
		t.Cleanup(func() { _ = syscall.Unmount(over, syscall.MNT_DETACH) })
		w.reads("etc/rules/work", step.is)
	}
	w.write("persistent/rules/work", "new, and changed")
	w.reads("etc/rules/work", "new, and changed")
	w.write("persistent/rules/work", "new")
	w.reads("etc/rules/work", "new")
	for _, step := range []struct{ over, is string }{{"etc/rules", "one"}, {"etc/rules/work", "new"}, {"etc", "old"}} {
		w.must(syscall.Unmount(w.path(step.over), syscall.MNT_DETACH))
		w.reads("etc/rules/work", step.is)
	}
}

// TestSlowAfterAMount: a file system answers late after something was mounted that concerns no path. That is told, and so is its end.
func TestSlowAfterAMount(t *testing.T) {
	before := renewTimeout
	t.Cleanup(func() { renewTimeout = before }) // after the end of watching
	renewTimeout = 20 * time.Millisecond
	w := &tree{t, t.TempDir(), make(chan struct{}, 1), make(chan error, 10000)}
	w.write("f", "")
	w.mkdir("other")
	slow := make(chan chan struct{}, 1)
	w.watch(func() []string {
		select {
		case answer := <-slow:
			<-answer
		default:
		}
		return []string{w.path("f")}
	})
	answer := make(chan struct{})
	defer close(answer)
	slow <- answer
	if err := syscall.Mount(w.path("other"), w.path("other"), "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(w.path("other"), syscall.MNT_DETACH) })
	for await.Value(t, "that a file system does not answer", w.reports) == nil {
	}
	answer <- struct{}{}
	for await.Value(t, "that all changes are seen again", w.reports) != nil {
	}
}

// Some machines have many mounts that concern no path. The watch reports no change for these.
func TestMountsElsewhere(t *testing.T) {
	w := &tree{T: t, dir: t.TempDir()}
	w.mkdir("rules")
	w.mkdir("other")
	w.write("rules/work", "")
	w.write("rules/.hidden", "")
	w.write("third", "")
	w.write("file", "")
	w.link("file", "link")
	r := &run{Watch: Watch{
		Paths: func() []string { return []string{w.path("link"), w.path("none")} },
		Dirs:  []Dir{{Path: w.path("rules"), Concerns: func(name string) bool { return name[0] != '.' }}},
	}}
	elsewhere := func() bool {
		targets, _ := r.targets()
		return r.leadElsewhere(targets)
	}
	if !elsewhere() {
		t.Error("what was there before is said to be known")
	}
	for _, step := range []struct {
		source, over string
		want         bool
	}{
		{"other", "other", false}, {"third", "rules/.hidden", false}, {"rules/.hidden", "rules/work", true}, {"rules/.hidden", "file", true},
		{"other", "rules", true},
	} {
		if err := syscall.Mount(w.path(step.source), w.path(step.over), "", syscall.MS_BIND, ""); err != nil {
			t.Skipf("mount: %v", err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(w.path(step.over), syscall.MNT_DETACH) })
		if is := elsewhere(); is != step.want || elsewhere() {
			t.Errorf("%s over %s: %v, want %v and then false", step.source, step.over, is, step.want)
		}
	}
}
