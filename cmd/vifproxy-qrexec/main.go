// Vifproxy-qrexec is the qrexec services vifproxy.Denied, vifproxy.Allow and vifproxy.AllowAlways of a firewall VM, by the name of the link
// by which it is executed. An AppVM calls them, dom0's policy decides whether it may, and qrexec-agent executes them as root. It is a program of its
// own and no verb of vifproxyctl, because it does three things and reads no command line: a caller chooses its first argument.
//
// The behaviour of qrexec (qubes-core-qrexec 4.1.0 to 4.4.2; libqrexec/exec.c, libqrexec/process_io.c, agent/qrexec-agent.c) decides this much:
//
//   - The environment has QREXEC_REMOTE_DOMAIN, which dom0 vouches for, and QREXEC_SERVICE_ARGUMENT: letters, digits and "+-._", chosen by
//     the caller, up to 65000 bytes. The argument is argv[1] too and may begin with a hyphen. Of the rest of the environment the caller
//     chooses nothing.
//   - Standard error goes to the caller, and to the journal as well. So this program writes nothing there.
//   - When the caller ends its standard input, or is gone, ours ends; but if bytes are left that nobody has read, qrexec waits for us to
//     read them first.
//   - The caller gets the exit status.
//
// Concurrency: one goroutine answers, and vifproxy.Denied has another one that reads standard input. The process ends with either.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/defaults"
)

// answerTime bounds the answer to a caller who wants a host to be allowed.
const answerTime = time.Minute

func main() {
	if null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil || unix.Dup3(int(null.Fd()), 2, 0) != nil {
		os.Exit(1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	text, ok := serve(ctx, call{
		service: filepath.Base(os.Args[0]), caller: os.Getenv("QREXEC_REMOTE_DOMAIN"), argument: os.Getenv("QREXEC_SERVICE_ARGUMENT"),
		stdin: os.Stdin, stdout: os.Stdout, daemon: control.NewClient(socket()),
	})
	if text != "" {
		_, err := fmt.Println(text)
		ok = ok && err == nil
	}
	if !ok {
		os.Exit(1)
	}
}

// socket returns the path of the control socket. The variable is for a daemon with another --control-socket, in /etc/environment.
func socket() string {
	if path := os.Getenv("VIFPROXY_SOCKET"); path != "" {
		return path
	}
	return defaults.ControlSocket
}

// A call is one call of a service.
type call struct {
	service, caller, argument string
	stdin                     io.Reader
	stdout                    io.Writer
	daemon                    *control.Client
}

// vmName is how dom0 names qubes: validate_name in qubes-core-admin, qubes/vm/__init__.py.
var vmName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,30}$`)

// serve does what a caller wants. It returns a line for the person there, and whether it was done.
func serve(ctx context.Context, c call) (text string, ok bool) {
	if !vmName.MatchString(c.caller) {
		return "no: the caller has no name of a qube", false
	}
	switch c.service {
	case "vifproxy.Denied":
		if c.argument != "" {
			return "no: vifproxy.Denied takes no argument", false
		}
		return c.denied(ctx)
	case "vifproxy.Allow", "vifproxy.AllowAlways":
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		host, why := parse(c.argument)
		if why != "" {
			return "no: " + why, false
		}
		if c.service == "vifproxy.Allow" {
			return c.allow(ctx, host)
		}
		return c.allowAlways(ctx, host)
	}
	return "no: this program is for qrexec, which executes it as vifproxy.Denied, vifproxy.Allow or vifproxy.AllowAlways", false
}
