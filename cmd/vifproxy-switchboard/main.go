// Vifproxy-switchboard loads the programs of BPF by which the kernel hands connections to proxies (package programs), hands them over to
// vifproxyd by the service manager (package handover), and ends. It is a program of its own so that the daemon needs neither the
// privileges for that nor the library.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"vifproxy/firewall/switchboard/handover"
	"vifproxy/firewall/switchboard/programs"
	"vifproxy/internal/cgroup"
	"vifproxy/internal/usage"
)

const help = `Usage:
    vifproxy-switchboard [--cgroup=DIR]

The unit of vifproxyd runs vifproxy-switchboard as root before vifproxyd, and vifproxyd runs it itself when
root has started it by hand. It loads programs into the kernel that hand connections of AppVMs to their
proxies, attaches them to this network namespace and to the cgroup of the proxies, and gives what vifproxyd
needs of them to the service manager at $NOTIFY_SOCKET. Then it ends. The programs stay attached as long as
vifproxyd or the service manager holds them.

If that is not possible on this machine, it hands over the reason instead, and the exit status is 0:
vifproxyd works without it, by NAT.

Options, with their defaults:
    --cgroup=DIR
        directory of the cgroup of vifproxyd and its proxies, in which no other process may be (default: the unit's)
`

func main() {
	f := flag.NewFlagSet("vifproxy-switchboard", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	group := f.String("cgroup", "", "")
	err := f.Parse(os.Args[1:])
	socket := os.Getenv("NOTIFY_SOCKET")
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage.Fill(help))
		return
	case err != nil:
		err = usage.Error(f, os.Args[1:], err, usage.Names(f), nil)
	case f.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q; see `vifproxy-switchboard --help`", f.Arg(0))
	case socket == "":
		err = errors.New("NOTIFY_SOCKET is not set: this program is run by the unit of vifproxyd, or by vifproxyd")
	}
	if err != nil {
		complain(err)
		os.Exit(2)
	}
	if err := run(socket, *group); err != nil {
		complain(err)
		os.Exit(1)
	}
}

func complain(err error) { fmt.Fprintf(os.Stderr, "vifproxy-switchboard: %v\n", err) }

// run hands the switchboard over, or the reason why there is none.
func run(socket, group string) error {
	attached, err := attach(group)
	if err != nil {
		complain(fmt.Errorf("vifproxyd has to do without: %w", err))
		return handover.Refuse(socket, err)
	}
	defer attached.Close()
	return handover.Send(socket, attached.Descriptors())
}

func attach(group string) (*programs.Attached, error) {
	if group == "" {
		own, err := cgroup.Own()
		if err != nil {
			return nil, err
		}
		group = cgroup.Unit(own)
	}
	processes, err := cgroup.Processes(group)
	if err != nil {
		return nil, err
	}
	for _, pid := range processes {
		if pid != os.Getpid() && pid != os.Getppid() { // started by hand, the daemon is there, and runs this program
			return nil, fmt.Errorf("process %d is in the cgroup %s, which has to be vifproxyd's alone", pid, group)
		}
	}
	return programs.Attach(group)
}
