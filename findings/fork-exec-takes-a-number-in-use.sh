#!/bin/sh
# Go's syscall.ForkExec gives its child more descriptors than those that are listed for it. One would expect that all other numbers
# are, until the program is executed, what they are in the parent, so that /proc/self/fd/N names an open file there.
#
# The child moves the pipe that tells of its errors to the number above the highest one listed, whatever has that number (Go 1.19 to
# 1.26, forkAndExecInChild1 in syscall/exec_linux.go), if the pipe has a lower one. If the program is named by that number, execve finds
# a pipe, and says "permission denied". As long as nothing else is opened or closed it is the same each time.
#
# It matters to somebody who executes the file that is open, and not what its path leads to by now: it fails for some orders in which
# files were opened and closed before, of which neither the caller nor the message tells.
set -eu
. "$(dirname "$0")/common"
need golang-1.19-go=1.19.8-2 golang-1.19-src=1.19.8-2

export GOROOT="$root/usr/lib/go-1.19" GOCACHE="$root/cache" GOPATH="$root/go" GO111MODULE=off CGO_ENABLED=0 GOFLAGS=
export HOME="$root" GOTMPDIR="$root"
"$GOROOT/bin/go" version
cat >"$root/numbers.go" <<'END'
package main

import (
	"fmt"
	"os"
	"syscall"
)

const program, listed = 41, 40

// run executes /bin/true by its descriptor, and lists one that has the number below in the first case.
func run(listed int) string {
	pid, err := syscall.ForkExec(fmt.Sprintf("/proc/self/fd/%d", program), []string{"true"},
		&syscall.ProcAttr{Files: []uintptr{0, 1, 2, uintptr(listed)}})
	if err != nil {
		return err.Error()
	}
	var status syscall.WaitStatus
	syscall.Wait4(pid, &status, 0, nil)
	return fmt.Sprint("status ", status.ExitStatus())
}

func main() {
	file, _ := os.Open("/bin/true")
	null, _ := os.Open(os.DevNull)
	for _, number := range []int{listed, listed + 2} {
		if err := syscall.Dup3(int(null.Fd()), number, syscall.O_CLOEXEC); err != nil {
			panic(err)
		}
	}
	if err := syscall.Dup3(int(file.Fd()), program, syscall.O_CLOEXEC); err != nil {
		panic(err)
	}
	fmt.Println("a descriptor above is listed:", run(listed+2))
	fmt.Println("the one below is listed:", run(listed))
	fmt.Println("again:", run(listed))
}
END
said=$("$GOROOT/bin/go" run "$root/numbers.go")
saw "the program has number 41" "a descriptor above is listed: status 0
the one below is listed: permission denied
again: permission denied" "$said"
