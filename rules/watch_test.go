package rules

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/internal/await"
)

// A watched set: until waits for wakes, and for nothing else, until reading gives what is wanted.
type watched struct {
	t             *testing.T
	dir, template string
	wakes         chan struct{}
}

func watch(t *testing.T, dir, template string) *watched {
	w := &watched{t, dir, template, make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- NewReader(dir, template).Watch(ctx, func() {
			select {
			case w.wakes <- struct{}{}:
			default:
			}
		}, func(err error) {
			if err != nil && !strings.Contains(err.Error(), "change all the time") { // as a test may have them do
				t.Error(err)
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := await.Value(t, "the end of watching", done); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *watched) until(want string) {
	w.t.Helper()
	for {
		await.Value(w.t, "a wake after which it reads "+want, w.wakes)
		set, err := Read(w.dir, w.template)
		if err == nil && set.print(w.dir) == want {
			return
		}
	}
}

const builtin = "built-in template\n"

func TestWatchFiles(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	config := filepath.Join(other, "config")
	w := watch(t, dir, config)
	w.until(builtin)
	path := filepath.Join(dir, "social.10.137.2.13")
	write(t, path, "^a$")
	w.until(`social 10.137.2.13 "1 ^a$\n"` + "\n" + builtin)
	write(t, path+".new", "^b$")
	must(t, os.Rename(path+".new", path))
	w.until(`social 10.137.2.13 "1 ^b$\n"` + "\n" + builtin)
	must(t, os.Rename(path, filepath.Join(dir, "work.10.137.2.13")))
	w.until(`work 10.137.2.13 "1 ^b$\n"` + "\n" + builtin)
	must(t, os.Remove(filepath.Join(dir, "work.10.137.2.13")))
	w.until(builtin)
	write(t, config, needed)
	w.until("template " + config + "\n")
	must(t, os.Remove(config))
	w.until(builtin)
}

func TestWatchDirectoryComesAndGoes(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a/b/rules")
	w := watch(t, dir, filepath.Join(dir, "config"))
	w.until(builtin)
	const (
		one = `social 10.137.2.13 "1 ^a$\n"` + "\n" + builtin
		two = `work 10.137.2.14 "1 ^b$\n"` + "\n" + builtin
	)
	must(t, os.MkdirAll(dir, 0o755))
	write(t, filepath.Join(dir, "social.10.137.2.13"), "^a$")
	w.until(one)
	must(t, os.RemoveAll(filepath.Join(top, "a")))
	w.until(builtin)

	// Replaced by renaming: the directory itself, one above it, and by a link.
	elsewhere := filepath.Join(top, "elsewhere")
	must(t, os.MkdirAll(elsewhere, 0o755))
	write(t, filepath.Join(elsewhere, "work.10.137.2.14"), "^b$")
	must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
	must(t, os.Rename(elsewhere, dir))
	w.until(two)
	must(t, os.Rename(filepath.Join(top, "a"), elsewhere))
	w.until(builtin)
	must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
	must(t, os.Symlink(filepath.Join(elsewhere, "b/rules"), dir))
	w.until(two)
	path := filepath.Join(elsewhere, "b/rules/work.10.137.2.1")
	must(t, os.Rename(path+"4", path+"5"))
	w.until(strings.Replace(two, ".14", ".15", 1))
}

// fsnotify reports a directory that goes while its watch is removed, holding a lock that every call needs.
func TestWatchSurvivesDirectoriesThatVanish(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "rules")
	w := watch(t, dir, filepath.Join(dir, "config"))
	for range 300 {
		must(t, os.Mkdir(dir, 0o755))
		write(t, filepath.Join(dir, "social.10.137.2.13"), "^a$")
		must(t, os.Rename(dir, dir+".old"))
		must(t, os.RemoveAll(dir+".old"))
	}
	must(t, os.Mkdir(dir, 0o755))
	write(t, filepath.Join(dir, "work.10.137.2.14"), "^b$")
	w.until(`work 10.137.2.14 "1 ^b$\n"` + "\n" + builtin)
}

func TestConcerns(t *testing.T) {
	for base, want := range map[string]bool{
		"social.10.137.2.13": true, "social.10.137.2.300": true, "six.fd00::1": true,
		"config~": false, ".config.swp": false, "social.10.137.2.13~": false, "notes": false,
		".": false, "/": false,
	} {
		if got := isRuleFile(base); got != want {
			t.Errorf("%q: %v", base, got)
		}
	}
}

// A rule file that is a link, and one that has another name as well, are read again when what they lead to is written.
func TestWatchBehindLinks(t *testing.T) {
	top := t.TempDir()
	dir, dotfiles := filepath.Join(top, "rules"), filepath.Join(top, "dotfiles")
	must(t, os.Mkdir(dotfiles, 0o755))
	write(t, filepath.Join(dotfiles, "social"), "^a$\n")
	write(t, filepath.Join(dotfiles, "work"), "^c$\n")
	write(t, filepath.Join(dotfiles, "config"), needed)
	must(t, os.Symlink(dotfiles+"/../rules.real", dir))
	must(t, os.Mkdir(filepath.Join(top, "rules.real"), 0o755))
	config := filepath.Join(dir, "config")
	w := watch(t, dir, config)
	w.until(builtin)
	must(t, os.Symlink("../dotfiles/social", filepath.Join(dir, "social.10.137.2.13")))
	must(t, os.Link(filepath.Join(dotfiles, "work"), filepath.Join(dir, "work.10.137.2.14")))
	must(t, os.Symlink("../dotfiles/config", config))
	want := func(social, work string) string {
		return fmt.Sprintf("social 10.137.2.13 \"1 ^%s$\\n\"\nwork 10.137.2.14 \"1 ^%s$\\n\"\ntemplate config\n", social, work)
	}
	w.until(want("a", "c"))
	write(t, filepath.Join(dotfiles, "social"), "^b$\n")
	w.until(want("b", "c"))
	write(t, filepath.Join(dotfiles, "work"), "^d$\n")
	w.until(want("b", "d"))
	must(t, os.Remove(filepath.Join(dotfiles, "config")))
	w.until(strings.Replace(want("b", "d"), "template config", "config: cannot be opened: no such file or directory "+
		"(make it a readable file, or remove it)", 1))
}
