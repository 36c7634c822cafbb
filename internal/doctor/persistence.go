package doctor

import "vifproxy/internal/kept"

// persistence checks whether a restart of this VM keeps the rule directory.
func (d *doctor) persistence() {
	const check = "persistence"
	if !d.exists("/usr/share/qubes/marker-vm") && qubesdb(d.ctx, kept.Key) == "" {
		return
	}
	kept := kept.At(d.ctx, d.Root, d.setup.RulesDir)
	level := OK
	switch {
	case kept.Unknown, kept.Disposable:
		level = Note
	case kept.Lost:
		level = Wrong
	}
	d.report(check, level, kept.Remedy, "%s", kept.Text)
}
