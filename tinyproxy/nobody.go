package tinyproxy

import (
	"runtime"
	"syscall"

	"vifproxy/internal/capability"
)

// nobody is who runs a tinyproxy that serves no AppVM.
var nobody = syscall.Credential{Uid: 65534, Gid: 65534}

// onThreadWithoutCaps runs f on a thread that has no capability to hand down to what f executes, and that ends when f has
// returned, and not before: a parent-death signal comes then.
func onThreadWithoutCaps(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		err := capability.Drop()
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// Environment is all that a proxy inherits: nothing of systemd's (NOTIFY_SOCKET, LISTEN_FDS, …), nothing
// that steers the C library.
var Environment = []string{"PATH=/usr/bin:/bin"}
