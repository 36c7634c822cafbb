package ask

// Sockets returns how many sockets are open.
func (a *Asker) Sockets() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sockets
}
