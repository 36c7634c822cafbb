package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
)

// deadFileSystem mounts a file system that nobody answers for. After revive, all questions to it fail.
func deadFileSystem(t *testing.T, dir string) (revive func()) {
	t.Helper()
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE: %v", err)
	}
	must(t, os.Mkdir(dir, 0o755))
	if err := unix.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40755,user_id=0,group_id=0", fuse)); err != nil {
		unix.Close(fuse)
		t.Skipf("no mount: %v", err)
	}
	revive = sync.OnceFunc(func() {
		unix.Close(fuse)
		must(t, unix.Unmount(dir, unix.MNT_DETACH))
	})
	t.Cleanup(revive)
	return revive
}

// TestFilesOnADeadFileSystem: rule files, and lists that they include, may be links to where nothing answers. That is the trouble of
// those AppVMs alone whose lists these are: changes of all others are read, and asked for.
func TestFilesOnADeadFileSystem(t *testing.T) {
	dir, dead := t.TempDir(), filepath.Join(t.TempDir(), "dead")
	revive := deadFileSystem(t, dead)
	must(t, os.Mkdir(filepath.Join(dir, SharedDir), 0o755))
	link, good := filepath.Join(dir, "dead.10.137.42.1"), filepath.Join(dir, "good.10.137.42.2")
	must(t, os.Symlink(filepath.Join(dead, "list"), link))
	must(t, os.Symlink(filepath.Join(dead, "shared"), filepath.Join(dir, SharedDir, "shared")))
	write(t, good, "^good$\n")
	write(t, filepath.Join(dir, "with.10.137.42.3"), "#: include shared\n")

	r := NewReader(dir, filepath.Join(dir, "config"))
	for i := range 2 {
		set, err := r.Read()
		if err != nil || len(set.Files) != 1 || len(set.Refused) != 2 || set.Again == 0 {
			t.Fatalf("%+v: %v", set, err)
		}
		for _, refused := range set.Refused {
			if flaw := (*Error)(nil); !errors.As(refused.Err, &flaw) || !flaw.Unsettled {
				t.Errorf("%s: %v", refused.Name, refused.Err) // so what it said before stays
			}
		}
		at := netip.MustParseAddr("10.137.42.2")
		if r.Changed(at) {
			t.Error("changed, and nothing has")
		}
		write(t, good, fmt.Sprintf("^good$\n^%d$\n", i))
		if !r.Changed(at) {
			t.Error("a change is not seen")
		}
		if set, err = r.Read(); err != nil || len(set.Files) != 1 || len(set.Files[0].Entries()) != 2 {
			t.Errorf("a change is not read: %+v: %v", set, err)
		}
	}
	revive()
	must(t, os.Remove(link))
	write(t, link, "^back$\n")
	must(t, os.Remove(filepath.Join(dir, SharedDir, "shared")))
	write(t, filepath.Join(dir, SharedDir, "shared"), "^shared$\n")
	await.Success(t, "an answer to all who wait", func() error {
		if open := r.unanswered.Open(); open > 0 {
			return fmt.Errorf("%d have none", open)
		}
		return nil
	})
	if set, err := r.Read(); err != nil || len(set.Files) != 3 {
		t.Errorf("%+v: %v", set, err)
	}
}

// TestManyOnADeadFileSystem: however many links lead to where nothing answers, all other rule files are read the first time.
func TestManyOnADeadFileSystem(t *testing.T) {
	for name, kill := range map[string]func(t *testing.T, dir, dead string) (refused int){
		"links and lists that are links": func(t *testing.T, dir, dead string) int {
			must(t, os.Mkdir(filepath.Join(dir, SharedDir), 0o755))
			for i := range 10 {
				list := fmt.Sprintf("list%d", i)
				must(t, os.Symlink(filepath.Join(dead, list), filepath.Join(dir, SharedDir, list)))
				must(t, os.Symlink(filepath.Join(dead, "rules"), filepath.Join(dir, fmt.Sprintf("dead%d.10.137.42.%d", i, 100+i))))
				write(t, filepath.Join(dir, fmt.Sprintf("with%d.10.137.42.%d", i, 200+i)), "#: include "+list+"\n")
			}
			return 20
		},
		"lists that lists include": func(t *testing.T, dir, dead string) int {
			must(t, os.Mkdir(filepath.Join(dir, SharedDir), 0o755))
			list := func(i int) string { return fmt.Sprintf("list%d", i) }
			for i := range 6 {
				must(t, os.Symlink(filepath.Join(dead, list(i)), filepath.Join(dir, SharedDir, "dead"+list(i))))
				write(t, filepath.Join(dir, SharedDir, list(i)), "#: include "+list(i+1)+"\n#: include dead"+list(i)+"\n")
			}
			write(t, filepath.Join(dir, SharedDir, list(6)), "^six$\n")
			write(t, filepath.Join(dir, "with.10.137.42.3"), "#: include list0\n")
			return 1
		},
		"lists.d, the template and the ceiling": func(t *testing.T, dir, dead string) int {
			var include strings.Builder
			for i := range includesMax {
				fmt.Fprintf(&include, "#: include list%d\n", i)
			}
			must(t, os.Symlink(dead, filepath.Join(dir, SharedDir)))
			must(t, os.Symlink(filepath.Join(dead, "config"), filepath.Join(dir, "config")))
			must(t, os.Remove(filepath.Join(dir, "ceiling")))
			must(t, os.Symlink(filepath.Join(dead, "ceiling"), filepath.Join(dir, "ceiling")))
			write(t, filepath.Join(dir, "with.10.137.42.3"), include.String())
			return 1
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, dead := t.TempDir(), filepath.Join(t.TempDir(), "dead")
			deadFileSystem(t, dead)
			good := filepath.Join(dir, "good.10.137.42.2")
			write(t, good, "^good$\n")
			ceiling := filepath.Join(dir, "ceiling")
			write(t, ceiling, "^good$\n")
			refused := kill(t, dir, dead)
			r := NewReader(dir, filepath.Join(dir, "config"))
			r.Under(ceiling)
			set, err := r.Read()
			if err != nil || len(set.Files) != 1 || len(set.Refused) != refused {
				t.Errorf("%d files, %d refused: %v", len(set.Files), len(set.Refused), err)
			}
		})
	}
}
