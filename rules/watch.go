package rules

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"vifproxy/internal/watchfile"
)

// Watch calls changed after whatever may have changed what [Read] returns for dir and template, links followed, and once
// when it has begun to watch. There may be too many of these calls. Before, it calls report: with nil, or with why not all
// changes are told of. Watch ends with ctx and returns nil, or returns why it cannot watch at all.
//
// The directories may be missing, come later and be replaced, and so may those above them.
func Watch(ctx context.Context, dir, template string, changed func(), report func(error)) error {
	return watchfile.Watch{
		Paths:    func() []string { return append([]string{template}, linked(dir)...) },
		Dir:      dir,
		Concerns: concerns,
		Changed:  changed,
		Report:   report,
	}.Run(ctx)
}

// concerns tells whether a file of this name in the rule directory can change what Read returns.
func concerns(base string) bool {
	_, addr, err := ParseFileName(base)
	return addr.IsValid() || err != nil
}

// linked returns the rule files whose content can change without an event of their directory: links, and files that have
// other names as well. A directory that cannot be read is for Read to report.
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
