package vmlog

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFilesOfAllHaveOneBound: logs make room for others, those of AppVMs that have left first, and what a proxy needs is
// refused only when no log is left to go. The account is what is on the disk.
func TestFilesOfAllHaveOneBound(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var said bytes.Buffer
	s, err := NewSpace(dir, func() *os.Root { return root }, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	s.most = 1 << 20
	onDisk := func() (all int64) {
		err := fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
			if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
				all += info.Size()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	check := func(when string) {
		t.Helper()
		if is := onDisk(); is != s.used-total(s.staged) || s.used > s.most {
			t.Errorf("%s: %d bytes of logs, counted %d, with files %d, of %d", when, is, s.used-total(s.staged), s.used, s.most)
		}
	}
	logs := map[string]*Log{}
	fill := func(vm string) {
		t.Helper()
		if logs[vm] == nil {
			if err := os.MkdirAll(filepath.Join(dir, vm), 0o755); err != nil {
				t.Fatal(err)
			}
			logs[vm] = New(vm, Listeners{}, s)
			logs[vm].Open(netip.MustParseAddr("10.137.0.9"), filepath.Join(dir, vm, "log"))
		}
		for range 20 { // as much as the burst permits
			for range 100 {
				logs[vm].line([]byte(strings.Repeat("x", 127)))
			}
			written(t, logs[vm])
		}
	}
	there := func(file string) bool {
		_, err := os.Stat(filepath.Join(dir, file))
		return err == nil
	}
	fill("gone")
	check("one AppVM")
	logs["gone"].Close(time.Minute)
	delete(logs, "gone")
	for _, vm := range []string{"a", "b", "c"} {
		fill(vm)
		check("with " + vm)
	}
	if !there("gone/log") {
		t.Error("the log of the AppVM that has left went although there was room")
	}
	if err := s.Stage("a/61000", 400<<10, 1); err != nil {
		t.Error(err)
	}
	check("with files of a proxy")
	if there("gone/log") || there("gone/log.1") || !there("a/log") {
		t.Error("not the log of the AppVM that has left went first")
	}
	if err := s.Stage("b/61001", 1<<20); !errors.Is(err, ErrNoSpace) {
		t.Errorf("more than there is room for: %v", err)
	}
	if there("a/log.1") || there("b/log.1") || !there("a/log") || !there("b/log") {
		t.Error("older logs stay, or newer ones went")
	}
	check("when there was no room")
	if n := strings.Count(said.String(), "no room for more files"); n != 1 {
		t.Errorf("told %d times:\n%s", n, said.String())
	}
	s.Unstage("a/61000")
	s.Unstage("a/61000")
	fill("gone")
	check("with the AppVM that came back")
}

func total(sizes map[string]int64) (all int64) {
	for _, n := range sizes {
		all += n
	}
	return all
}
