// Vifproxylab makes the lab of package lab usable from a shell: a Qubes firewall VM, AppVMs and an internet, all made of network
// namespaces, in which vifproxy can be tried without Qubes. It is a tool for developers and is not installed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"vifproxy/internal/bench"
	"vifproxy/internal/lab"
)

const usage = `Vifproxylab makes a Qubes firewall VM, AppVMs and an internet out of network namespaces,
to try vifproxy in. It needs root, iproute2, nftables (or iptables) and curl.

Usage:
    vifproxylab demo --daemon=PATH --ctl=PATH
                                    show what vifproxy is for, with the real vifproxyd
                                    and vifproxyctl; builds and ends a lab of its own
    vifproxylab bench [--only=NAME,...] [--runs=N] [--json=FILE] [--profile=DIR]
                    [--daemon=PATH] [--empty=PATH]
                                    measure vifproxyd, each figure beside its floor; see
                                    docs/performance.md, and 'make bench', which builds all of it.
                                    NAME is one of attach rules unchanging revoke cold attach-250
                                    connect reconcile idle memory write move storm https https-h2
                                    download page lookup again faults resolver lists throughput
    vifproxylab up [--ruleset=r42|r41]
                                    build a lab: r42 has the nftables rules of Qubes R4.2+,
                                    r41 the iptables rules of before
    vifproxylab attach NAME IP [VIF]
                                    connect an AppVM; VIF is like vif2.0, or the next free.
                                    A second vif for the same NAME makes it an HVM
    vifproxylab detach NAME|VIF     disconnect an AppVM, or one vif of it
    vifproxylab curl NAME URL [ARGUMENT...]
                                    run curl in an AppVM, through the proxy on its gateway
    vifproxylab run -- COMMAND [ARGUMENT...]
                                    run a program in the firewall VM
    vifproxylab status              show what there is
    vifproxylab down                end the lab and all that runs in it

All names under .example exist, with http and https; TEST-NET-2, TEST-NET-3 and private networks
answer too. VIFPROXYLAB_DIR in the environment is where up keeps its socket (/run/vifproxylab).

Example, in bin/ after 'make build':
    # PATH=$PWD:$PATH
    # vifproxylab up
    # mkdir /tmp/rules; printf '#: format domains\nbank.example\n' > /tmp/rules/bank.10.137.0.11
    # vifproxylab run -- vifproxyd --rules-dir=/tmp/rules &
    # vifproxylab attach bank 10.137.0.11
    # vifproxylab curl bank https://bank.example/
    hello from bank.example, page /
    # vifproxylab down
`

// usageError is a wrong command line; it ends the program with status 2.
type usageError string

func (e usageError) Error() string { return string(e) }

func main() {
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	var wrong usageError
	switch {
	case errors.As(err, &wrong):
		fmt.Fprintf(os.Stderr, "vifproxylab: %v\nTry 'vifproxylab --help'.\n", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "vifproxylab:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out io.Writer) error {
	verb := ""
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	if verb == "" || slices.Contains([]string{"help", "-h", "-help", "--help"}, verb) {
		_, err := io.WriteString(out, usage)
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("network namespaces are for root only: try it with sudo")
	}
	switch verb {
	case "demo":
		flags := flags(verb)
		daemon := flags.String("daemon", "bin/vifproxyd", "")
		ctl := flags.String("ctl", "bin/vifproxyctl", "")
		if err := parse(flags, args, 0, 0); err != nil {
			return err
		}
		return demo(ctx, out, *daemon, *ctl)
	case "bench":
		return measure(ctx, out, args)
	case "up", holdVerb:
		flags := flags(verb)
		ruleset := flags.String("ruleset", string(lab.R42), "")
		if err := parse(flags, args, 0, 0); err != nil {
			return err
		}
		if verb == holdVerb {
			return hold(ctx, lab.Ruleset(*ruleset))
		}
		return up(out, *ruleset)
	case "attach":
		if err := parse(flags(verb), args, 2, 3); err != nil {
			return err
		}
		return attach(out, args)
	case "detach":
		if err := parse(flags(verb), args, 1, 1); err != nil {
			return err
		}
		return call("Detach", args[0], new(int))
	case "curl":
		if len(args) < 2 {
			return usageError("curl: needs a NAME and a URL")
		}
		return become("CurlArgs", args)
	case "run":
		if len(args) > 0 && args[0] == "--" {
			args = args[1:]
		}
		if len(args) == 0 {
			return usageError("run: needs a COMMAND")
		}
		return become("RunArgs", args)
	case "status":
		if err := parse(flags(verb), args, 0, 0); err != nil {
			return err
		}
		return status(out)
	case "down":
		if err := parse(flags(verb), args, 0, 0); err != nil {
			return err
		}
		return down(out)
	}
	return usageError(fmt.Sprintf("there is no verb %q", verb))
}

func flags(verb string) *flag.FlagSet {
	f := flag.NewFlagSet(verb, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

// parse reads a verb's flags and checks how many other arguments it has.
func parse(f *flag.FlagSet, args []string, least, most int) error {
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return usageError(f.Name() + ": all verbs are explained in one place")
	case err != nil:
		return usageError(f.Name() + ": " + err.Error())
	case f.NArg() < least || f.NArg() > most:
		return usageError(fmt.Sprintf("%s: wrong number of arguments: %d", f.Name(), f.NArg()))
	}
	return nil
}

func measure(ctx context.Context, out io.Writer, args []string) error {
	flags := flags("bench")
	o := bench.Options{}
	flags.IntVar(&o.Runs, "runs", 20, "")
	flags.StringVar(&o.Daemon, "daemon", "", "")
	flags.StringVar(&o.Empty, "empty", "bin/bench/empty", "")
	flags.StringVar(&o.JSON, "json", "", "")
	flags.StringVar(&o.Profile, "profile", "", "")
	flags.Func("only", "", func(names string) error {
		o.Only = append(o.Only, strings.Split(names, ",")...)
		return nil
	})
	if err := parse(flags, args, 0, 0); err != nil {
		return err
	}
	if o.Runs < 1 {
		return usageError(fmt.Sprintf("bench: --runs=%d: nothing comes of that", o.Runs))
	}
	if o.Daemon == "" && o.Profile == "" {
		o.Daemon = "bin/vifproxyd"
	} else if o.Daemon == "" {
		o.Daemon = "bin/bench/vifproxyd" // the one that can write profiles
	}
	return bench.Run(ctx, out, o)
}

func attach(out io.Writer, args []string) error {
	ip, err := netip.ParseAddr(args[1])
	if err != nil {
		return usageError("attach: " + err.Error())
	}
	vm := lab.VM{Name: args[0], IP: ip, DomID: nextDomID}
	if len(args) == 3 {
		_, err := fmt.Sscanf(args[2], "vif%d.%d", &vm.DomID, &vm.DevID)
		if err != nil || vm.Vif() != args[2] {
			return usageError(fmt.Sprintf("attach: %q is not the name of a vif, like vif2.0", args[2]))
		}
	}
	var vif string
	if err := call("Attach", vm, &vif); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s (%v) is connected as %s\n", vm.Name, vm.IP, vif)
	return err
}

// become asks the lab how to run a program in it, and becomes that program. It finds programs next to vifproxylab, where `make build`
// leaves vifproxyd, and in PATH.
func become(method string, args []string) error {
	var argv []string
	if err := call(method, args, &argv); err != nil {
		return err
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	own, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Setenv("PATH", os.Getenv("PATH")+":"+filepath.Dir(own)); err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", strings.Join(argv, " "), syscall.Exec(path, argv, os.Environ()))
}
