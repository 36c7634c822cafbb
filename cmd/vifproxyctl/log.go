package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os/signal"
	"path/filepath"
	"syscall"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/logtail"
	"vifproxy/internal/usage"
	"vifproxy/rules"
)

func logVerb() verb {
	return verb{
		name: "log", args: "NAME", least: 1, most: 1,
		options: func(f *flag.FlagSet) action {
			o := logtail.Options{}
			f.BoolVar(&o.All, "all", false, "also show what tinyproxy says at each start, change of rules and end, and its warnings of directives "+
				"that another version of it needs")
			f.BoolVar(&o.Follow, "f", false, "")
			f.BoolVar(&o.Follow, "follow", false, fmt.Sprintf("show the last %d lines and go on with what comes, until Ctrl-C", logtail.FollowedLines))
			f.IntVar(&o.Lines, "n", -1, "show the last `LINES` only")
			return func(ctx context.Context, c *call) error {
				if o.Lines < -1 || usage.Given(f, "n") && o.Lines < 0 {
					return usagef("-n %d: want a number of lines, such as -n 20", o.Lines)
				}
				return runLog(ctx, c, o)
			}
		},
		summary: "Show what the proxies of a VM have logged.",
		help: `Control characters are shown as escapes. Until it is restarted, vifproxyd keeps up to 2 MiB of log for
each VM, and less if many VMs share little memory.
`,
	}
}

// runLog prints what a VM's proxies said.
func runLog(ctx context.Context, c *call, o logtail.Options) error {
	path, notRunning, err := logFile(ctx, c)
	if err != nil {
		return err
	}
	if o.Follow {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
		defer stop()
	}
	err = logtail.Print(ctx, c.stdout, path, o)
	switch {
	case errors.Is(err, fs.ErrNotExist) && notRunning != nil:
		return notRunning
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s has no log yet: its proxy has not run since vifproxyd started (%s)", c.args[0], path)
	}
	return err
}

// logFile returns the path of the log of the named VM. Without a daemon the path is in the default place, where the log may still be; then
// notRunning is the error that no daemon runs.
func logFile(ctx context.Context, c *call) (path string, notRunning error, err error) {
	name := c.args[0]
	status, err := c.client.Status(ctx)
	if gone := (*control.NotRunningError)(nil); errors.As(err, &gone) {
		if parsed, _, bad := rules.ParseFileName(name + ".0.0.0.0"); bad != nil || parsed != name {
			return "", nil, usagef("%q is not a VM name", name)
		}
		return filepath.Join(c.root+defaults.RuntimeDir, name, "log"), gone, nil
	}
	if err != nil {
		return "", nil, err
	}
	if _, err := status.VM(name); err != nil {
		return "", nil, err
	}
	return filepath.Join(status.Setup.RuntimeDir, name, "log"), nil, nil
}
