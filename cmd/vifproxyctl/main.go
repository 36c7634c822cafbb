// Vifproxyctl shows and controls what vifproxyd does. It gets nearly all information from the daemon; see package control.
//
// commandline.go reads a command line and finds its verb in the table of verbs.go. Each verb has a file of its own, with its row of the
// table, its options and what it does. call.go has what every verb gets.
//
// Concurrency: one goroutine does everything, but for live: there others ask the daemon and run commands, and end before it returns.
// Packages that it calls end theirs before they return.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"vifproxy/control"
	"vifproxy/internal/defaults"
)

// Exit statuses.
const (
	exitFailed = 1 + iota // the daemon refused, or a VM is in trouble
	exitUsage
	exitNotRunning
	exitPermission
	exitFails // a request fails although nothing refuses it
)

// errTrouble ends a run that has named everything that is wrong.
var errTrouble = errors.New("some VMs are in trouble")

// errFails ends a run that has explained why a request fails although nothing refuses it.
var errFails = fmt.Errorf("the request fails: %w", errTrouble)

func main() {
	os.Exit(env{version: defaults.Version(), stdout: os.Stdout, stderr: os.Stderr}.run(os.Args[1:]))
}

// An env is what a run has around it.
type env struct {
	version        string // of this program
	root           string // before the paths of the system's files: "", but in tests
	stdout, stderr io.Writer
}

// run does what a command line asks for, and returns the exit status.
func (e env) run(args []string) int {
	err := e.invoke(args)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errTrouble) {
		complain(e.stderr, err.Error())
	}
	var (
		wrong      *usageError
		notRunning *control.NotRunningError
		permission *control.PermissionError
		said       *control.DaemonError
	)
	switch {
	case errors.As(err, &wrong), errors.As(err, &said) && said.Fault == control.Invalid:
		return exitUsage
	case errors.As(err, &notRunning):
		if notRunning.Socket != defaults.ControlSocket {
			complain(e.stderr, fmt.Sprintf("--socket=%s was given; without it %s is asked", notRunning.Socket, defaults.ControlSocket))
		}
		return exitNotRunning
	case errors.As(err, &permission):
		return exitPermission
	case errors.Is(err, errFails):
		return exitFails
	}
	return exitFailed
}
