package supervisor

import "vifproxy/internal/events"

// publish makes the files under an AppVM's name describe the process that serves it. This goes on beside the loop, because a file
// system may not answer.
func (l *loop) publish(vm *appVM) {
	p := vm.current
	if vm.publishing || p == nil || p.published {
		return
	}
	vm.publishing = true
	beside(l, p.proxy.Current, func(l *loop, err error) { l.published(vm, p, err) })
}

// published takes in that the files describe a process, or why they do not.
func (l *loop) published(vm *appVM, p *process, err error) {
	vm.publishing, p.published = false, err == nil          // after an error the next look tries again: the disk may be full now
	l.changed = l.changed || len(l.waiters) > 0 || !l.ready // they wait for it
	if err != nil && !p.publishFailed && !p.Dying {
		l.Events.Emit(events.FilesStale, events.About{VM: p.Policy.Name, IP: vm.addr, Err: err.Error()})
	}
	p.publishFailed = err != nil
	if vm.current != p {
		l.publish(vm)
	}
}

// beingPublished reports whether a verb has to wait for the files. If they could not be written before, it does not.
func (vm *appVM) beingPublished() bool {
	return vm.publishing && vm.current != nil && !vm.current.publishFailed
}
