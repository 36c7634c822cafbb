package supervisor

import "vifproxy/internal/events"

// show has the files under an AppVM's name tell of the process that serves it, beside the loop: a file system may not answer.
func (l *loop) show(vm *appVM) {
	p := vm.current
	if vm.showing || p == nil || p.shown {
		return
	}
	vm.showing = true
	beside(l, p.proxy.Current, func(l *loop, err error) { l.showed(vm, p, err) })
}

// showed is the news that the files tell of a process, or why they do not.
func (l *loop) showed(vm *appVM, p *process, err error) {
	vm.showing, p.shown = false, err == nil                 // else at the next look again: the disk may be full now
	l.changed = l.changed || len(l.waiters) > 0 || !l.ready // they wait for it
	if err != nil && !p.hidden && !p.Dying {
		l.Events.Emit(events.FilesStale, events.About{VM: p.Policy.Name, IP: vm.addr, Err: err.Error()})
	}
	p.hidden = err != nil
	if vm.current != p {
		l.show(vm)
	}
}

// beingShown reports whether files are being written that somebody may be about to read. Where that has failed before, nobody
// waits for it.
func (vm *appVM) beingShown() bool { return vm.showing && vm.current != nil && !vm.current.hidden }
