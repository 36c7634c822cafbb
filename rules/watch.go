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
	files := []string{r.template}
	if r.under != "" {
		files = append(files, r.under)
	}
	return watchfile.Watch{
		Paths:    func() []string { return slices.Concat(files, linked(r.dir)) },
		Dir:      r.dir,
		Concerns: concerns,
		Changed:  changed,
		Report:   report,
	}.Run(ctx)
}

// concerns reports whether a file of this name in the rule directory can change what Read returns.
func concerns(base string) bool { return isRuleFile(base) }

// linked returns the rule files whose content can change without an event of their directory: symbolic links, and files that
// have other names as well. Read reports a directory that cannot be read.
func linked(dir string) (paths []string) {
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
