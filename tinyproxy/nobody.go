package tinyproxy

import (
	"runtime"
	"syscall"

	"vifproxy/internal/capability"
)

// nobody is the user of a tinyproxy that serves no AppVM.
var nobody = syscall.Credential{Uid: 65534, Gid: 65534}

// onThreadWithoutCaps runs f on a thread that has no capability to pass on to what f executes. The thread ends when f has
// returned and not before, because the kernel sends parent-death signals then.
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

// Environment is all that a proxy inherits: nothing from systemd (NOTIFY_SOCKET, LISTEN_FDS, …), and nothing that changes how
// the C library works.
var Environment = []string{"PATH=/usr/bin:/bin"}
