package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"vifproxy/control"
)

// claim takes what only one daemon has: the control socket, and the name of this network namespace. It comes first: if another vifproxyd
// runs, that shows before anything of its is removed. release gives both back.
func (o options) claim() (socket *control.Listener, release func(), err error) {
	socket, err = control.Listen(o.controlSocket, o.socketGroup)
	if err != nil {
		return nil, nil, err
	}
	name, err := alone()
	if err != nil {
		socket.Close()
		return nil, nil, err
	}
	return socket, func() { name.Close(); socket.Close() }, nil
}

// alone keeps every other vifproxyd away from this network namespace until the file is closed. Another one would take over the firewall,
// and end the proxies, which it finds by uid. The control socket's lock is for one path only. This name is for the whole network
// namespace, because abstract sockets belong to it (unix(7)), as the firewall does. The name goes with the process.
func alone() (*os.File, error) {
	const name = control.OnlyName
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("the socket %s of this network namespace is taken, by another vifproxyd or a program "+
				"that uses its name (`ss -xlp | grep %s` shows it: stop it first)", name, name)
		}
		return nil, fmt.Errorf("take the name %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
