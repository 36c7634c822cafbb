package rules

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"vifproxy/internal/watchfile"
)

// Watch calls changed whenever what [Reader.Read] reads of files may have changed, and once when it has begun to watch.
// It follows links, and may call too often. Before that, it calls report: with nil, or with the reason why it cannot see all
// changes. Watch returns nil when ctx ends, or the reason why it cannot watch at all.
//
// The directories, and those above them, may be missing, come later and be replaced.
func (r *Reader) Watch(ctx context.Context, changed func(), report func(error)) error {
	files, lists := []string{r.template}, filepath.Join(r.dir, SharedDir)
	if r.under != "" {
		files = append(files, r.under)
	}
	return watchfile.Watch{
		Paths:   func() []string { return slices.Concat(files, linked(r.dir, isRuleFile), linked(lists, isShared)) },
		Dirs:    []watchfile.Dir{{Path: r.dir, Concerns: isRuleFile}, {Path: lists, Concerns: isShared}},
		Changed: changed,
		Report:  report,
	}.Run(ctx)
}

// linked returns the files of a directory whose content can change without an event of it: symbolic links, and files that have
// other names as well. concerns says which names matter. Read reports a directory that cannot be read.
func linked(dir string, concerns func(name string) bool) (paths []string) {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if !concerns(entry.Name()) {
			continue
		}
		elsewhere := entry.Type()&fs.ModeSymlink != 0
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			elsewhere = info.Sys().(*syscall.Stat_t).Nlink > 1
		}
		if elsewhere {
			paths = append(paths, filepath.Join(dir, entry.Name()))
		}
	}
	return paths
}
