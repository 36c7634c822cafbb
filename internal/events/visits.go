package events

import "net/netip"

// A Visit is a request of an AppVM that its proxy has let pass, or a connection that it has made. An AppVM that owns its proxy can make up any of it, so it is a hint for
// people and decides nothing.
type Visit struct {
	IP   netip.Addr // of the AppVM
	Host string     // as the AppVM sent it, 255 bytes at most; empty if tinyproxy does not say it
	Port uint16     // 0 if tinyproxy does not say it
}

// OnVisit has f called for each visit of an AppVM, until stop is called. f must not wait. An AppVM has one such function; a later one
// takes its place.
func (e *Emitter) OnVisit(vm netip.Addr, f func(Visit)) (stop func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.visits[vm] = f
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.visits, vm)
	}
}

// Visited takes every connection that a proxy has made.
func (e *Emitter) Visited(v Visit) {
	e.mu.Lock()
	f := e.visits[v.IP]
	e.mu.Unlock()
	if f != nil {
		f(v)
	}
}

// OnAdmitted sets a function to be called for each request that the list of an AppVM lets pass, whatever becomes of it then. f must not
// wait.
func (e *Emitter) OnAdmitted(f func(Visit)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.admitted = f
}

// Admitted takes every request that the list of an AppVM lets pass. Port is 0.
func (e *Emitter) Admitted(v Visit) {
	e.mu.Lock()
	f := e.admitted
	e.mu.Unlock()
	if f != nil {
		f(v)
	}
}
