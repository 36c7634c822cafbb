package doctor

import (
	"cmp"
	"context"
	"path/filepath"
	"strings"
	"syscall"
)

// persistence checks whether a restart of this VM keeps the rule directory.
func (d *doctor) persistence() {
	const check = "persistence"
	dir := d.setup.RulesDir
	if !d.exists("/usr/share/qubes/marker-vm") && qubesdb(d.ctx, persistenceKey) == "" {
		return
	}
	kept := KeptAt(d.ctx, d.Root, dir)
	level := OK
	switch {
	case kept.Unknown, kept.Disposable:
		level = Note
	case kept.Lost:
		level = Wrong
	}
	d.report(check, level, kept.Remedy, "%s", kept.Text)
}

// persistenceKey of QubesDB says what of a VM outlives its restart: "full", "rw-only" or, of a disposable, "none"
// (create_qdb_entries in qubes-core-admin's qubes/vm/qubesvm.py and dispvm.py).
const persistenceKey = "/qubes-vm-persistence"

// Kept says what becomes of a directory when this VM is restarted.
type Kept struct {
	Lost, Disposable, Unknown bool
	Text, Remedy              string
}

// KeptAt returns what becomes of a directory when this VM is restarted. The files of the system are below root, "" but in tests.
func KeptAt(ctx context.Context, root, dir string) Kept {
	switch kind := qubesdb(ctx, persistenceKey); kind {
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
		template := cmp.Or(qubesdb(ctx, "/qubes-base-template"), "the template that it is made of")
		return Kept{Lost: true, Disposable: true, Text: "this VM is a disposable and keeps no files, also not " + dir,
			Remedy: "write the same into " + dir + " of its disposable template " + template + ", and restart this VM"}
	}
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
