package doctor

import (
	"context"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/kept"
	"vifproxy/internal/terminal"
)

// persistence checks whether a restart of this VM keeps the lists that are in files.
func (d *doctor) persistence(ctx context.Context) {
	const check = "persistence"
	if !d.exists("/usr/share/qubes/marker-vm") && qubesdb(ctx, kept.Key) == "" {
		return
	}
	kept := kept.At(ctx, d.Root, d.setup.RulesDir)
	inFiles := d.inFiles()
	switch {
	case kept.Disposable && len(inFiles) == 0:
		d.report(check, OK, "", "this VM is a disposable and keeps no files; no list is in one")
	case kept.Disposable:
		d.reportEach(check, Note, kept.Remedy, kept.Text+"; now the list of %s is there", kept.Text+"; now %d lists are there: %s", inFiles)
	case kept.Lost:
		d.report(check, Wrong, kept.Remedy, "%s", kept.Text)
	case kept.Unknown:
		d.report(check, Note, kept.Remedy, "%s", kept.Text)
	default:
		d.report(check, OK, kept.Remedy, "%s", kept.Text)
	}
}

// inFiles names the AppVMs whose lists are in files, and the files of ranges.
func (d *doctor) inFiles() (names []string) {
	for _, r := range d.rules.Ranges {
		names = append(names, terminal.Quote(r.Path[strings.LastIndexByte(r.Path, '/')+1:]))
	}
	if d.status == nil {
		for _, f := range d.rules.Files {
			names = append(names, terminal.Quote(f.Name))
		}
		return names
	}
	for _, vm := range d.status.VMs {
		if vm.Origin == control.InFile {
			names = append(names, terminal.Quote(vm.Name))
		}
	}
	return names
}
