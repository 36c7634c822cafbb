package process

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"vifproxy/internal/filegroup"
	"vifproxy/internal/notroot"
	"vifproxy/tinyproxy"
)

// isProxyDir reports whether info is of a directory that this package made. Its group says so, because nothing else uses these
// numbers. Everything below it is ours too.
func isProxyDir(info fs.FileInfo) bool {
	return info.IsDir() && tinyproxy.IsProxyUID(info.Sys().(*syscall.Stat_t).Gid)
}

// prepare makes the VM's directory, its log, and the link to it under the old path. A trial has no log: nil.
func (l *Launcher) prepare(spec rendered) (*vmLog, error) {
	info, err := l.root().Lstat(spec.Name)
	if err == nil && !isProxyDir(info) {
		// An empty directory may be replaced.
		if !info.IsDir() || l.root().Remove(spec.Name) != nil {
			return nil, fmt.Errorf("%s is not ours (remove it, or rename the rule file)",
				filepath.Join(l.options.RuntimeDir, spec.Name))
		}
	}
	if err := makeDir(l.root(), spec.Name, spec.UID); err != nil || spec.heard != nil {
		return nil, err
	}
	if err := l.linkCompat(spec.Name); err != nil {
		l.options.Log.Warn("no link to the files of a VM under the old path", "vm", spec.Name,
			"err", notroot.WithRemedy(err, notroot.AddToUnit("RuntimeDirectory="+filepath.Base(l.options.CompatDir))))
	}
	l.mu.Lock()
	log := l.logOf(spec.Name)
	l.mu.Unlock()
	path := cmp.Or(spec.Config.LogFile, l.paths(spec.Name, 0).LogFile)
	if err := l.pointTo(spec.Name, "log", path); err != nil {
		return nil, err
	}
	// A log that cannot be written does not keep a proxy from starting. Its lines are dropped, and LogProblem says so.
	log.Open(spec.Addr, path)
	return log, nil
}

// pointTo makes NAME/file a symlink to path, if the template wants that file in another place. Otherwise it removes such a
// symlink.
func (l *Launcher) pointTo(vm, file, path string) error {
	name := filepath.Join(vm, file)
	if path != filepath.Join(l.options.RuntimeDir, name) {
		return replaceLink(l.root(), path, name)
	}
	if _, err := l.root().Readlink(name); err == nil {
		return l.root().Remove(name)
	}
	return nil
}

// makeDir makes a directory that the group gid may enter and read. If an AppVM has got another address, makeDir gives its
// directory to the new group.
func makeDir(root *os.Root, name string, gid uint32) error {
	return filegroup.As(int(gid), func() error {
		if err := root.Mkdir(name, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		// Its owner may do that, because the file-system gid counts as one of its groups (chgrp_ok in Linux' fs/attr.c).
		if err := root.Lchown(name, -1, int(gid)); err != nil {
			return err
		}
		return root.Chmod(name, 0o750)
	})
}

// stage writes what the proxy reads. Of an ended proxy at the same port, something may stay: then the new one has its files beside that.
func (l *Launcher) stage(spec rendered) error {
	dir := portDir(spec)
	l.leftMu.Lock()
	stays := l.clearOut(dir)
	delete(l.left, dir) // or KeepFiles would remove the new files too
	l.leftMu.Unlock()
	if err := makeDir(l.root(), dir, spec.UID); err != nil {
		return err
	}
	var rules strings.Builder
	for _, r := range spec.Rules {
		rules.WriteString(r.Text + "\n")
	}
	type file struct{ name, text string }
	files := []file{{"config", spec.text}, {"rules", rules.String()}}
	for _, page := range errorPages {
		if spec.Config.HasPage(page.code) {
			continue
		}
		// Behind all other lines, so that line numbers stay the template's.
		files[0].text += fmt.Sprintf("ErrorFile %s \"%s\"\n", page.code, filepath.Join(l.options.RuntimeDir, dir, page.file))
		if !slices.ContainsFunc(files, func(f file) bool { return f.name == page.file }) {
			files = append(files, file{page.file, page.text(spec)})
		}
	}
	var sizes []int
	for _, f := range files {
		sizes = append(sizes, len(f.text))
	}
	if err := l.space.Stage(dir, sizes...); err != nil {
		return err
	}
	for _, f := range files {
		if err := writeFile(l.root(), filepath.Join(dir, f.name), f.text, spec.UID); err != nil {
			if stays != nil && errors.Is(err, fs.ErrExist) {
				return stays
			}
			return err
		}
	}
	return nil
}

// clearOut removes what stage has written to a directory. The caller holds leftMu.
func (l *Launcher) clearOut(dir string) error {
	err := l.root().RemoveAll(dir)
	if err == nil {
		l.space.Unstage(dir)
		delete(l.left, dir)
	}
	return err
}

func portDir(spec rendered) string {
	return filepath.Join(spec.Name, strconv.Itoa(int(spec.Listen.Port())))
}

// unstage removes what stage wrote. If something cannot be removed, as for lack of descriptors, KeepFiles tries again.
func (l *Launcher) unstage(spec rendered) {
	l.leftMu.Lock()
	defer l.leftMu.Unlock()
	dir := portDir(spec)
	if err := l.clearOut(dir); err != nil {
		l.options.Log.Warn("files of an ended proxy stay", "vm", spec.Name, "port", spec.Listen.Port(), "err", err)
		l.left[dir] = true
		l.dir.vanish.Doubt("")
	}
}

// removeLeft removes files that could not be removed when their proxies ended. It reports whether none are left.
func (l *Launcher) removeLeft() bool {
	l.leftMu.Lock()
	defer l.leftMu.Unlock()
	for dir := range l.left {
		_ = l.clearOut(dir)
	}
	return len(l.left) == 0
}

// writeFile makes a new file. A file of that name must not exist.
func writeFile(root *os.Root, name, content string, gid uint32) error {
	return filegroup.As(int(gid), func() error {
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
		if err != nil {
			return err
		}
		err = f.Chmod(0o640) // whatever the umask is
		if err == nil {
			_, err = f.WriteString(content)
		}
		return errors.Join(err, f.Close())
	})
}

// replaceLink makes name a symlink to target in one step, whatever name was before.
func replaceLink(root *os.Root, target, name string) error {
	if old, err := root.Readlink(name); err == nil && old == target {
		return nil
	}
	tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".link") // no VM's name begins with a dot
	_ = root.Remove(tmp)
	if err := root.Symlink(target, tmp); err != nil {
		return err
	}
	return root.Rename(tmp, name)
}

// linkCompat makes CompatDir/NAME a symlink to the VM's directory. It leaves alone what others made there.
func (l *Launcher) linkCompat(name string) error {
	if l.options.CompatDir == "" {
		return nil
	}
	// At each start, because the directory may be another service's RuntimeDirectory, and vanish with it.
	if err := os.MkdirAll(l.options.CompatDir, 0o755); err != nil {
		return err
	}
	dir, err := os.OpenRoot(l.options.CompatDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	target := filepath.Join(l.options.RuntimeDir, name)
	if _, err := dir.Lstat(name); err == nil {
		if old, _ := dir.Readlink(name); old != target {
			return fmt.Errorf("%s exists (remove it)", filepath.Join(l.options.CompatDir, name))
		}
		return nil
	}
	return dir.Symlink(target, name)
}

// clean removes all our directories and links.
func (l *Launcher) clean() error {
	entries, err := os.ReadDir(l.options.RuntimeDir)
	if err != nil {
		return fmt.Errorf("clean the runtime directory: %w", err)
	}
	for _, e := range entries {
		if info, err := l.root().Lstat(e.Name()); err == nil && isProxyDir(info) {
			if err := l.root().RemoveAll(e.Name()); err != nil {
				return fmt.Errorf("clean the runtime directory: %w", err)
			}
		}
	}
	if l.options.CompatDir == "" {
		return nil
	}
	dir, err := os.OpenRoot(l.options.CompatDir)
	if err != nil {
		return nil // without the directory there are no links of ours
	}
	defer dir.Close()
	entries, _ = os.ReadDir(l.options.CompatDir)
	for _, e := range entries {
		if target, err := dir.Readlink(e.Name()); err == nil && filepath.Dir(target) == l.options.RuntimeDir {
			_ = dir.Remove(e.Name())
		}
	}
	return nil
}
