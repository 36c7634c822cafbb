package regular

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Only a regular file is opened, and nothing is waited for.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	fifo, plain := filepath.Join(dir, "fifo"), filepath.Join(dir, "plain")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plain, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		fifo: ErrNotRegular, dir: ErrNotRegular, "/dev/null": ErrNotRegular, filepath.Join(dir, "none"): fs.ErrNotExist, plain: nil,
	} {
		file, info, err := Open(path, os.O_RDONLY, 0)
		if !errors.Is(err, want) || err == nil && info.Size() != 4 {
			t.Errorf("%s: %v", path, err)
		}
		if file != nil {
			file.Close()
		}
	}
	if _, _, err := Open(fifo, os.O_WRONLY, 0); !errors.Is(err, syscall.ENXIO) {
		t.Errorf("a FIFO that nobody reads: %v", err)
	}
}

// TestFileWithoutEnd: some files of /proc are regular, and have no end. Nobody waits for it, so the test ends.
func TestFileWithoutEnd(t *testing.T) {
	file, _, err := Open("/proc/kmsg", os.O_RDONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer file.Close()
	if text, err := ReadAll(file, 1<<40); err == nil { // no log of a kernel is as long
		t.Errorf("it has an end, after %d bytes", len(text))
	}
}
