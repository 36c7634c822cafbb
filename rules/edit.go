package rules

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
	"vifproxy/rules/flaws"
)

// Append returns content with lines at its end. Every byte of content stays as it is. If the last line has no end, Append adds
// one.
func Append(content []byte, lines []string) []byte {
	end := "\n"
	if bytes.Contains(content, []byte("\r\n")) {
		end = "\r\n"
	}
	content = slices.Clone(content)
	if len(content) > 0 && content[len(content)-1] != '\n' {
		content = append(content, end...)
	}
	for _, line := range lines {
		content = append(content, line+end...)
	}
	return content
}

// rewriteLines returns content with some lines replaced, by number. A line whose new text is empty is removed.
func rewriteLines(content []byte, edits map[int]string) []byte {
	var b bytes.Buffer
	number := 0
	for line := range bytes.Lines(content) {
		number++
		text, edited := edits[number]
		if !edited {
			b.Write(line)
			continue
		}
		if bytes.HasPrefix(line, []byte("\ufeff")) {
			b.WriteString("\ufeff")
		}
		if text != "" {
			b.WriteString(text)
			b.Write(line[len(bytes.TrimRight(line, "\r\n")):])
		}
	}
	return b.Bytes()
}

// Rewrite replaces the content of a file by what edit makes of it, in one step: a reader, vifproxyd too, sees the old content or
// the new one. Owner and mode stay. Concurrent calls run one after the other.
func Rewrite(path string, edit func(content []byte) ([]byte, error)) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("rewrite %s: %w", terminal.Quote(path), err)
		}
	}()
	if path, err = filepath.EvalSymlinks(path); err != nil { // a link stays a link
		return errors.New(withoutPath(err))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return errors.New(withoutPath(err))
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock its directory: %w", err)
	}
	content, err := ReadFile(path)
	if err != nil {
		return err
	}
	if len(content) > sizeMax {
		return tooLarge(path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	changed, err := edit(content)
	if err != nil || bytes.Equal(changed, content) {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	// Hidden, so that nobody takes it for a rule file.
	temp := filepath.Join(filepath.Dir(path), "."+strings.TrimLeft(filepath.Base(path), ".")+".vifproxy-new")
	_ = os.Remove(temp)
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(changed)
	err = errors.Join(err, file.Chown(int(owner.Uid), int(owner.Gid)), file.Chmod(info.Mode().Perm()),
		file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp)
		return err
	}
	return dir.Sync()
}

// Find returns the file for the VM of this name.
func (s Set) Find(name string) (File, error) {
	var names []string
	for _, f := range s.Files {
		if f.Name == name {
			return f, nil
		}
		names = append(names, f.Name)
	}
	for _, r := range s.Refused {
		if r.Name == name {
			return File{}, r.Err
		}
	}
	if names == nil {
		return File{}, fmt.Errorf("no rule file for %s: there are none", flaws.Excerpt(name))
	}
	err := fmt.Errorf("no rule file for %s: there are those of %s", flaws.Excerpt(name), strings.Join(names, ", "))
	if meant := usage.NearestName(name, names); meant != "" {
		err = fmt.Errorf("%w (did you mean %s?)", err, meant)
	}
	return File{}, err
}
