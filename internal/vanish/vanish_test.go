package vanish

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"vifproxy/internal/await"
)

// started returns a Watcher that runs, and a directory that it does not watch.
func started(t *testing.T) (w *Watcher, dir string) {
	w = New()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := await.Value(t, "the end of Run", ended); err != nil {
			t.Error(err)
		}
		w.Close()
	})
	return w, t.TempDir()
}

// TestVanish does in turn what takes files away, and what does not.
func TestVanish(t *testing.T) {
	for what, do := range map[string]func(dir string) error{
		"a file is removed":        func(dir string) error { return os.Remove(filepath.Join(dir, "a/file")) },
		"a file is renamed":        func(dir string) error { return os.Rename(filepath.Join(dir, "a/file"), filepath.Join(dir, "file")) },
		"the directory is removed": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "a")) },
		"the directory is renamed": func(dir string) error { return os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")) },
		"the socket is removed":    func(dir string) error { return os.Remove(filepath.Join(dir, "socket")) },
		"the socket is replaced":   func(dir string) error { return os.Rename(filepath.Join(dir, "other"), filepath.Join(dir, "socket")) },
		"the socket is renamed":    func(dir string) error { return os.Rename(filepath.Join(dir, "socket"), filepath.Join(dir, "x")) },
		"its directory is removed": func(dir string) error { return os.RemoveAll(dir) },
		"a file comes":             func(dir string) error { return os.WriteFile(filepath.Join(dir, "a/new"), nil, 0o600) },
		"a neighbour is removed":   func(dir string) error { return os.Remove(filepath.Join(dir, "other")) },
		"a file comes by a renaming": func(dir string) error {
			return os.Rename(filepath.Join(dir, "other"), filepath.Join(dir, "a/other"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			w, top := started(t)
			dir := filepath.Join(top, "dir")
			a, socket, last := filepath.Join(dir, "a"), filepath.Join(dir, "socket"), filepath.Join(top, "last")
			for _, path := range []string{a, last} {
				if err := os.MkdirAll(path, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, path := range []string{filepath.Join(a, "file"), filepath.Join(dir, "other"), filepath.Join(last, "file")} {
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			l, err := net.Listen("unix", socket) // it is open, so unlinking it does not end it
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for _, err := range []error{w.Add(a), w.AddFile(socket), w.Add(last)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := do(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(last, "file")); err != nil { // the kernel tells in order
				t.Fatal(err)
			}
			var got []string
			for !slices.Contains(got, last) {
				await.Value(t, "news", w.News())
				for path := range w.Lost() {
					got = append(got, path)
				}
			}
			want := map[string][]string{
				"a file is removed": {a}, "a file is renamed": {a}, "the directory is removed": {a}, "the directory is renamed": {a},
				"the socket is removed": {socket}, "the socket is replaced": {socket}, "the socket is renamed": {socket},
				"its directory is removed": {a, socket},
			}[what]
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, append(want, last)) {
				t.Errorf("told of %q, want %q", got, append(want, last))
			}
		})
	}
}

func TestAddAndFailure(t *testing.T) {
	w := New()
	dir := t.TempDir()
	if err := w.Add(filepath.Join(dir, "nothing")); !os.IsNotExist(err) {
		t.Error(err)
	}
	if err := w.Add(dir); err != nil {
		t.Error(err)
	}
	w.Close()
	if err := w.Run(t.Context()); err == nil {
		t.Error("a closed one runs")
	}
	await.Value(t, "news of a failure", w.News())
	if lost := w.Lost(); !lost[""] || len(lost) != 1 || len(w.Lost()) != 0 {
		t.Error(lost)
	}
	if err := w.Add(dir); err == nil {
		t.Error("one that has failed watches")
	}
}
