package confine

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"vifproxy/internal/await"
)

// TestPlaces: the text changes whenever another inode is there. A watcher hears of that, and of changes of other files.
func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	var p Places
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func(names ...string) map[string]string {
		t.Helper()
		var paths []string
		for _, name := range names {
			paths = append(paths, filepath.Join(dir, name))
		}
		text, err := p.Read(paths...)
		must(err)
		return text
	}
	write := func(name string) { t.Helper(); must(os.WriteFile(filepath.Join(dir, name), []byte("page"), 0o644)) }
	remove := func(name string) { t.Helper(); must(os.Remove(filepath.Join(dir, name))) }

	told := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- p.Watch(ctx, func() {
			select {
			case told <- struct{}{}:
			default:
			}
		}, func(error) {})
	}()
	// changes waits until files have another text than before, looking at it only when told.
	changes := func(before map[string]string, names ...string) {
		t.Helper()
		for {
			await.Value(t, "a change", told)
			if !maps.Equal(read(names...), before) {
				return
			}
		}
	}

	write("a")
	first := read("a")
	for range 100 { // file systems give the number of a removed file to the next one
		remove("a")
		write("a")
		changes(first, "a")
		first = read("a")
	}
	write("a")
	if now := read("a"); !maps.Equal(now, first) {
		t.Errorf("written in place, and the text changes: %s, before %s", now, first)
	}
	write("b")
	both := read("a", "b")
	remove("b")
	changes(both, "a", "b")
	cancel()
	must(await.Value(t, "the end of watching", ended))
}
