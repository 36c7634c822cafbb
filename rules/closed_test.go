package rules

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
)

// isUnsettled reports whether an error is that of a file that is not complete yet.
func isUnsettled(err error) bool {
	var flaw *Error
	return errors.As(err, &flaw) && flaw.Unsettled
}

// past sets the time of a file's last change back, since the file's end is in doubt before.
func past(t *testing.T, path string) {
	t.Helper()
	must(t, os.Chtimes(path, time.Time{}, time.Now().Add(-quiet)))
}

func TestFileIsReadWhenNobodyWritesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "social.10.137.2.13")
	expect := func(what, want string) {
		t.Helper()
		switch content, again, err := readClosed(path, 0); {
		case want == "" && (!isUnsettled(err) || again <= 0 || again > quiet):
			t.Errorf("%s: %q, again in %v, %v; want it not to be read", what, content, again, err)
		case want != "" && (err != nil || string(content) != want || again != 0):
			t.Errorf("%s: %q, again in %v, %v; want %q", what, content, again, err, want)
		}
	}
	f, err := os.Create(path)
	must(t, err)
	expect("just made", "")
	_, err = f.WriteString("^a$\n")
	must(t, err)
	past(t, path)
	expect("half written", "")
	must(t, f.Close())
	expect("closed", "^a$\n")

	other := filepath.Join(filepath.Dir(path), "other")
	must(t, os.Link(path, other))
	f, err = os.OpenFile(other, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	expect("open by another name", "")
	_, err = f.WriteString("^b")
	must(t, err)
	must(t, f.Close())
	expect("closed within a line", "")
	past(t, path)
	expect("and quiet", "^a$\n^b")

	f, err = os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	mapped, err := unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	must(t, f.Close())
	past(t, path)
	expect("mapped", "")
	must(t, unix.Munmap(mapped))
	expect("not mapped any more", "^a$\n^b")

	f, err = os.Open(path) // by a reader
	must(t, err)
	expect("open for reading", "^a$\n^b")
	must(t, f.Close())
}

// However the writer and the reader meet, the reader gets all that the writer wrote or nothing.
func TestNoHalfFileIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "social.10.137.2.13")
	text := bytes.Repeat([]byte("^a$\n"), 5000)
	must(t, os.WriteFile(path, text, 0o600))
	done, written := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-done:
				written <- n
				return
			default:
			}
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
			if err != nil {
				t.Error(err)
				continue
			}
			for part := text; len(part) > 0; part = part[1000:] {
				if _, err := f.Write(part[:1000]); err != nil {
					t.Error(err)
				}
			}
			f.Close()
			time.Sleep(50 * time.Microsecond)
		}
	}()
	read := 0
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		content, _, err := readClosed(path, 0)
		switch {
		case err == nil && bytes.Equal(content, text):
			read++
		case !isUnsettled(err):
			t.Fatalf("%d bytes of %d, %v", len(content), len(text), err)
		}
	}
	close(done)
	if n := await.Value(t, "the end of the writer", written); read == 0 || n == 0 {
		t.Errorf("written %d times, read %d times", n, read)
	}
}

// The clock is set back after a file was written, or the file is on a machine whose clock is ahead: half a line is not believed, but a file
// that stays as it is.
func TestFileOfTheFuture(t *testing.T) {
	dir := t.TempDir()
	path, config := filepath.Join(dir, "social.10.137.2.13"), filepath.Join(dir, "config")
	must(t, os.WriteFile(config, []byte("Listen {bind_ip}\nPort {port}\nFilter \"{rules_file}\"\nFilterDefaultDeny Yes\n"), 0o644))
	r := NewReader(dir, config)
	write := func(text string) {
		t.Helper()
		must(t, os.WriteFile(path, []byte(text), 0o644))
		must(t, os.Chtimes(path, time.Time{}, time.Now().Add(1000*time.Hour)))
	}
	read := func() (lines int, again time.Duration) {
		t.Helper()
		set, err := r.Read()
		must(t, err)
		if len(set.Refused) > 0 && !isUnsettled(set.Refused[0].Err) {
			t.Error(set.Refused[0].Err)
		}
		for _, f := range set.Files {
			lines += len(f.Entries())
		}
		return lines, set.Again
	}
	for _, text := range []string{"^bank\\.exam", "^bank\\.example$\n^shop\\.exam"} {
		write(text)
		if lines, again := read(); lines != 0 || again <= 0 || again > quiet {
			t.Errorf("%q: %d lines are believed, again in %v", text, lines, again)
		}
		await.Until(t, "it is believed", func() bool { lines, _ := read(); return lines > 0 })
	}
	write("^bank\\.example$\n") // it has an end
	if lines, again := read(); lines != 1 || again != 0 {
		t.Errorf("%d lines, again in %v", lines, again)
	}
}

func TestReaderKeepsWhatIsNotCompleteApart(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config")
	write(t, filepath.Join(dir, "good.10.137.2.12"), "^a$\n")
	write(t, filepath.Join(dir, "social.10.137.2.13"), "^a$\n")
	write(t, config, needed)
	file, err := os.OpenFile(filepath.Join(dir, "social.10.137.2.13"), os.O_WRONLY, 0)
	must(t, err)
	template, err := os.OpenFile(config, os.O_WRONLY|os.O_TRUNC, 0)
	must(t, err)
	r := NewReader(dir, config)
	set, err := r.Read()
	must(t, err)
	if len(set.Files) != 1 || len(set.Refused) != 1 || !isUnsettled(set.Refused[0].Err) || !isUnsettled(set.TemplateErr) || set.Again == 0 {
		t.Errorf("%s\nagain in %v", set.print(dir), set.Again)
	}
	_, err = template.WriteString(needed)
	must(t, err)
	must(t, template.Close())
	must(t, file.Close())
	set, err = r.Read()
	must(t, err)
	if text := set.print(dir); strings.Count(text, "^a$") != 2 || !strings.HasSuffix(text, "template config\n") || set.Again != 0 {
		t.Errorf("%s\nagain in %v", text, set.Again)
	}
}
