package process

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
)

func TestUnsearchableRuntimeDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := newLauncher(t, func(o *Options) { o.RuntimeDir = filepath.Join(dir, "run") })
	_, err := l.Start(bounded(t), realBinary, newSpec(l, "social", 61001))
	var e *Error
	if !errors.As(err, &e) || e.Config || !strings.HasPrefix(e.Text, "tinyproxy cannot read its config") ||
		e.Remedy != "every directory above the runtime directory must be searchable by everybody" {
		t.Error(err)
	}
}

// TestFullRuntimeDir has a tmpfs without a free block, then one with.
func TestFullRuntimeDir(t *testing.T) {
	dir := filepath.Join(openDir(t), "run")
	if err := errors.Join(os.Mkdir(dir, 0o755),
		unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=755")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	l := newLauncher(t, func(o *Options) { o.RuntimeDir = dir })
	old := start(t, l, realBinary, newSpec(l, "social", 61000))

	hasLog(t, old)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	_, err := l.Start(bounded(t), realBinary, newSpec(l, "social", 61001))
	want := fmt.Sprintf("write %s/social/61001/config: no space left on device "+
		"(free space on the file system of %[1]s; see df and df -i)", dir)
	var e *Error
	if !errors.As(err, &e) || e.Config || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v\nwant: %s", err, want)
	}
	const want61000 = "ballast social social/61000 social/61000/config social/61000/refused.html " +
		"social/61000/rules social/61000/unreached.html social/log"
	if got := tree(t, dir); got != want61000 {
		t.Errorf("files: %s", got)
	}
	// The log is full too, and the proxy does not mind.
	for range 200 {
		if got := get(t, old, "example.org"); !strings.Contains(got, " 403 ") {
			t.Errorf("answer %q", got)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	next := start(t, l, realBinary, newSpec(l, "social", 61001))

	// Files that cannot tell of the new proxy do not tell of the old one either.
	if err := l.SetCurrent(old); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := l.SetCurrent(next); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if got := tree(t, dir); strings.Contains(got, "pid") || strings.Contains(got, "social/config") {
		t.Errorf("files: %s", got)
	}
	if err := errors.Join(os.Remove(ballast), l.SetCurrent(next)); err != nil {
		t.Error(err)
	}
	if got := read(t, dir, "social/pid"); got != fmt.Sprintln(next.PID) {
		t.Errorf("pid file %q, want %d", got, next.PID)
	}
}

// TestARemovedRuntimeDirectoryIsMadeAgain when a proxy starts, or at the next look. Those that run go on, and it is told that
// their files are gone: once, as new ones are to take over.
func TestARemovedRuntimeDirectoryIsMadeAgain(t *testing.T) {
	l := newLauncher(t, nil)
	old := start(t, l, realBinary, newSpec(l, "social", 61000))
	if err := l.SetCurrent(old); err != nil {
		t.Fatal(err)
	}
	before := l.Renewals()
	for _, what := range []string{".", "social", "social/61000/config"} {
		remove(t, filepath.Join(l.options.RuntimeDir, what))
		if what != "." {
			before = l.Renewals()
			l.dir.renewed = time.Time{}
		}
		next := start(t, l, realBinary, newSpec(l, "work", 61001))
		if got := get(t, old, "example.org"); !strings.Contains(got, " 403 ") {
			t.Errorf("answer %q", got)
		}
		if err := l.restore(); err != nil {
			t.Error(err)
		}
		if !l.renew(time.Now(), everything()) || l.Renewals() == before {
			t.Errorf("%s is gone, and no new process is wanted", what)
		}
		if l.dir.renewed = (time.Time{}); l.renew(time.Now(), everything()) {
			t.Errorf("%s: wanted twice", what)
		}
		if err := l.SetCurrent(next); err != nil {
			t.Fatal(err)
		}
		next.Kill()
		if l.renew(time.Now(), everything()) {
			t.Error("an ended process is missed")
		}
		again := start(t, l, realBinary, newSpec(l, "social", 61002))
		if err := l.SetCurrent(again); err != nil {
			t.Fatal(err)
		}
		if got := read(t, l.options.RuntimeDir, "social/config"); !strings.Contains(got, "Port 61002") {
			t.Errorf("%s: the configuration shown is %q", what, got)
		}
		old.Kill()
		hasLog(t, again)
		again.Kill()
		old = start(t, l, realBinary, newSpec(l, "social", 61000))
		if err := l.SetCurrent(old); err != nil {
			t.Fatal(err)
		}
	}
}

func everything() map[string]bool { return map[string]bool{"": true} }

// remove does what `rm -r` does, again where a log is written meanwhile.
func remove(t *testing.T, path string) {
	t.Helper()
	for ctx := bounded(t); os.RemoveAll(path) != nil; {
		if ctx.Err() != nil {
			t.Fatal(path, "stays")
		}
	}
}

// TestARuntimeDirectoryThatCannotBeMadeAgain is named as what keeps proxies from starting: as by the unit, /run is not the daemon's.
func TestARuntimeDirectoryThatCannotBeMadeAgain(t *testing.T) {
	l := newLauncher(t, nil)
	dir := l.options.RuntimeDir
	remove(t, dir)
	for what, replace := range map[string]func() error{
		"file":      func() error { return os.WriteFile(dir, nil, 0o644) },
		"link":      func() error { return os.Symlink(t.TempDir(), dir) },
		"another's": func() error { return errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, 12345, 0)) },
		"open":      func() error { return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o777)) },
	} {
		if err := replace(); err != nil {
			t.Fatal(err)
		}
		_, err := l.Start(bounded(t), realBinary, newSpec(l, "work", 61001))
		var problem *Error
		if !errors.Is(err, ErrRemoved) || !errors.As(err, &problem) || problem.Config ||
			!strings.Contains(err.Error(), "somebody has removed the runtime directory") {
			t.Errorf("%s: %v", what, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, l, realBinary, newSpec(l, "work", 61001))
	if err := l.SetCurrent(p); err != nil {
		t.Error(err)
	}
}

// TestNobodyLooksForFilesAtRest: the kernel tells what vanishes. If it cannot, the daemon looks as often as it has to.
func TestNobodyLooksForFilesAtRest(t *testing.T) {
	l := newLauncher(t, nil)
	go l.dir.vanish.Run(t.Context()) //nolint:errcheck // a test of its own
	suspects := map[string]bool{}
	lookAt := func(when string, wantNext time.Duration, wantRenewed bool) {
		t.Helper()
		l.dir.renewed = time.Time{}
		next, err, renewed := l.look(suspects)
		if next != wantNext || err != nil || renewed != wantRenewed {
			t.Errorf("%s: next look in %v, %v, renewed: %v", when, next, err, renewed)
		}
	}
	told := func(dir string) {
		t.Helper()
		await.Until(t, "the kernel tells of "+dir, func() bool {
			maps.Copy(suspects, l.dir.vanish.Lost())
			return suspects[dir]
		})
	}
	lookAt("nothing serves", slowFilesInterval, false)
	p, q := start(t, l, realBinary, newSpec(l, "social", 61000)), start(t, l, realBinary, newSpec(l, "work", 61001))
	if err := errors.Join(l.SetCurrent(p), l.SetCurrent(q)); err != nil {
		t.Fatal(err)
	}
	lookAt("all is at rest", slowFilesInterval, false)
	for _, lost := range []struct {
		path string
		by   *Proxy
	}{{"social/61000/config", p}, {"work/61001", q}} {
		remove(t, filepath.Join(l.options.RuntimeDir, lost.path))
		told(l.files(lost.by))
		lookAt(lost.path+" is gone", slowFilesInterval, true)
		lookAt(lost.path+" is known to be gone", slowFilesInterval, false)
	}
	next := start(t, l, realBinary, newSpec(l, "social", 61002))
	if err := l.SetCurrent(next); err != nil {
		t.Fatal(err)
	}
	remove(t, l.options.RuntimeDir)
	told(l.options.RuntimeDir)
	lookAt("all is gone", slowFilesInterval, true)
	l.dir.vanish.Doubt(l.files(next))
	l.dir.renewed = time.Now()
	if wait, _, renewed := l.look(suspects); wait != filesInterval || renewed || !suspects[l.files(next)] {
		t.Errorf("too soon after a renewal: next look in %v, %v, %v", wait, renewed, suspects)
	}
	l.dir.vanish.Close()
	told("")
	lookAt("the kernel cannot tell", filesInterval, false)
}
