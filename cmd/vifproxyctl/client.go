package main

import (
	"context"
	"flag"
	"fmt"
	"strings"

	"vifproxy/internal/browsers"
	"vifproxy/internal/settings"
)

func clientVerb() verb {
	return verb{
		name: "client", args: "NAME", least: 1, most: 1,
		options: func(f *flag.FlagSet) action {
			format := f.String("format", "env", "print this `FORMAT` (env)")
			return func(ctx context.Context, c *call) error { return runClient(ctx, c, *format) }
		},
		noJSON:  "; --format=firefox-policy and --format=chromium-policy are JSON",
		summary: "Print the proxy settings for programs in a VM.",
		help:    settings.Help,
	}
}

func runClient(ctx context.Context, c *call, formatName string) error {
	f, err := settings.FormatNamed(formatName)
	if err != nil {
		return usagef("--format=%s: %v", formatName, err)
	}
	status, err := c.client.Status(ctx)
	if err != nil {
		return err
	}
	vm, err := status.VM(c.args[0])
	if err != nil {
		return err
	}
	gateway := status.GatewayOf(vm)
	if gateway == "" {
		return fmt.Errorf("%s is not connected, nor is any other AppVM: its gateway is not known; start it first",
			vm.Name)
	}
	proxy := browsers.Proxy{Host: gateway, Port: status.Setup.ProxyPort}
	text, err := f.For(vm.Name, proxy)
	if err != nil {
		return err
	}
	if err := say(c.stdout, "%s", text); err != nil || f.File == "" {
		return err
	}
	return say(c.stderr, `%s reads this from %s, for all users, and shows it at %s.
Bring it into %[4]s with qvm-copy, copy it to %[5]s, and have
/rw/config/rc.local bring it to its place whenever %[4]s starts:
    install -D -m 644 %[5]s %[2]s
`, strings.TrimSuffix(formatName, "-policy"), f.File, f.Seen, vm.Name, f.Kept)
}
