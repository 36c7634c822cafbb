// Package kept says what outlives a restart of this VM.
//
// Concurrency: At may be called from any goroutine.
package kept

import (
	"cmp"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Key of QubesDB says what of a VM outlives its restart: "full", "rw-only" or, of a disposable, "none" (create_qdb_entries in
// qubes-core-admin's qubes/vm/qubesvm.py and dispvm.py).
const Key = "/qubes-vm-persistence"

// Kept says what becomes of a directory when this VM is restarted.
type Kept struct {
	Lost, Disposable, Unknown bool
	Text, Remedy              string
}

// At returns what becomes of a directory when this VM is restarted. The files of the system are below root, "" but in tests.
func At(ctx context.Context, root, dir string) Kept {
	switch kind := value(ctx, Key); kind {
	case "":
		return Kept{Unknown: true, Text: "QubesDB does not say what of this VM is kept"}
	case "full":
		return Kept{Text: "all files of this VM are kept"}
	case "rw-only":
		if !onRW(root, dir) {
			return Kept{Lost: true, Text: dir + " is lost when this VM is restarted: only /rw is kept",
				Remedy: "move it below /rw and name it to vifproxyd with --rules-dir"}
		}
		return Kept{Text: dir + " is on /rw, which is kept"}
	default:
		template := cmp.Or(value(ctx, "/qubes-base-template"), "the template that it is made of")
		return Kept{Lost: true, Disposable: true, Text: "this VM is a disposable and keeps no files: at its next start, lists in " + dir +
			" are those of its disposable template " + template,
			Remedy: "have dom0 keep a list of names, by the command that `vifproxyctl export NAME` prints, or write it into " + dir + " of " + template}
	}
}

// valueTimeout bounds a question to QubesDB.
const valueTimeout = 5 * time.Second

// value returns one value of QubesDB, "" if there is none.
func value(ctx context.Context, path string) string {
	ctx, cancel := context.WithTimeout(ctx, valueTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qubesdb-read", path)
	cmd.WaitDelay = time.Second // if it has left something behind that holds its output open
	text, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}

// onRW reports whether a VM that does not keep its root file system keeps a directory: it is on /rw, or bound to something there
// (bind-dirs).
func onRW(root, dir string) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	if strings.HasPrefix(dir, root+"/rw/") {
		return true
	}
	var there, rw, system syscall.Stat_t
	return syscall.Stat(dir, &there) == nil && syscall.Stat(root+"/rw", &rw) == nil &&
		syscall.Stat(root+"/", &system) == nil && there.Dev == rw.Dev && rw.Dev != system.Dev
}
