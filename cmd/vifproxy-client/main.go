// Vifproxy-client is what an AppVM has of vifproxy: it shows refused hosts on the desktop, asks dom0 to allow one, and tells programs
// where their proxy is. It decides nothing: a program in the AppVM could do all of it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"vifproxy/internal/browsers"
	"vifproxy/internal/defaults"
	"vifproxy/internal/settings"
	"vifproxy/internal/usage"
)

const help = `Vifproxy-client shows on the desktop of an AppVM what its proxy refuses, and asks dom0 to allow it.

Usage:
    vifproxy-client notify
    vifproxy-client unblock [--always] [HOST...]
    vifproxy-client setup [--wait=TIME] [--root=DIR] | --remove
    vifproxy-client settings [FORMAT]
    vifproxy-client version

The package vifproxy-client is for the template of AppVMs whose firewall VM runs vifproxyd. Its two
units run notify and setup by themselves. Vifproxy-unblock is another name of "vifproxy-client unblock".

Verbs:
    notify    Shows a notification for each site of which hosts were refused, with two buttons: one
              allows these hosts for 10 minutes, the other always. A person answers in dom0 before
              anything is allowed. Nothing pressed means no. A desktop without buttons names
              vifproxy-unblock. vifproxy-client.service, a unit of the user, runs it.
    unblock   Lists what was refused in the last 10 minutes, with numbers, and asks which of these
              hosts to allow, and for how long. With HOST, HOST:PORT or a URL it allows that one
              for 10 minutes. With --always it allows for good.
    setup     Writes the settings below, if this VM has the service vifproxy (qvm-service NAME
              vifproxy on, in dom0) or a proxy answers at its gateway, port 8100. Otherwise it removes
              what an earlier run has written. vifproxy-client-setup.service runs it as root at
              each start of the VM. It waits 20 s for a proxy, or TIME. In a firewall VM and in a
              template it writes nothing. With --root it writes below DIR. With --remove it removes
              what was written, as the removal of the package does.
    settings  Prints the settings for FORMAT: those of "vifproxyctl client", such as env, git or
              firefox-policy. Without FORMAT it names the files that setup writes.
    version   Prints the version.

Files:
    /etc/firefox/policies/policies.json
        the proxy, and an end to what Firefox asks for by itself
    /etc/chromium/policies/managed/00-vifproxy.json
        the same for Chromium
    /etc/profile.d/00-vifproxy.sh
        http_proxy and its likes, for login shells and the session
        (git, flatpak, curl and many more programs read them)
    /run/environment.d/00-vifproxy.conf
        the same for services of users, and desktops that these start
    /run/systemd/system.conf.d/00-vifproxy.conf
        the same for services of the system
    /etc/apt/apt.conf.d/00vifproxy, /etc/dnf/libdnf5.conf.d/00-vifproxy.conf
        the proxy, if there is apt, or dnf
    $XDG_RUNTIME_DIR/vifproxy-client/refused.json
        what was refused, for vifproxy-unblock

A user's own files outrank each of these: a later file in the same directory, ~/.profile,
~/.config/environment.d, /etc/dnf/dnf.conf. A file that is not of setup, or that somebody has changed,
stays as it is, and the journal names it. Firefox reads one file of policies alone; if you have one,
write into it what "vifproxy-client settings firefox-policy" prints.

Exit status:
    0  all is well
    1  dom0 or the firewall VM refuses, or something failed
    2  wrong usage
`

// usageError is a wrong command line; it ends the program with status 2.
type usageError string

func (e usageError) Error() string { return string(e) }

func main() {
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	args := os.Args[1:]
	name := filepath.Base(os.Args[0])
	if name == "vifproxy-unblock" {
		args = append([]string{"unblock"}, args...)
	}
	err := run(ctx, args, os.Stdin, os.Stdout)
	var wrong usageError
	switch {
	case errors.As(err, &wrong):
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// verbs are the words that a command line may begin with.
var verbs = []string{"help", "notify", "settings", "setup", "unblock", "version"}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 {
		return usageError("a verb is missing; see `vifproxy-client --help`")
	}
	verb, rest := args[0], args[1:]
	if slices.Contains([]string{"help", "--help", "-h"}, verb) {
		return printHelp(out)
	}
	f := flag.NewFlagSet("vifproxy-client "+verb, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	always, remove, root, wait, most := new(bool), new(bool), new(string), new(time.Duration), 0
	switch verb {
	case "unblock":
		always = f.Bool("always", false, "")
		most = hostsMax
	case "setup":
		root = f.String("root", "", "")
		remove = f.Bool("remove", false, "")
		wait = f.Duration("wait", probeTime, "")
	case "settings":
		most = 1
	case "notify", "version":
	default:
		text := fmt.Sprintf("there is no verb %q", verb)
		if meant := usage.Nearest(verb, verbs); meant != "" {
			text += ": did you mean " + meant + "?"
		}
		return usageError(text + "; see `vifproxy-client --help`")
	}
	var words []string // options may come after them
	for left := rest; ; {
		if err := f.Parse(left); errors.Is(err, flag.ErrHelp) {
			return printHelp(out)
		} else if err != nil {
			return usageError(usage.Error(f, rest, err, usage.Names(f), map[string]string{"wait": "a time such as 10s"}).Error())
		}
		if f.NArg() == 0 {
			break
		}
		words, left = append(words, f.Arg(0)), f.Args()[1:]
	}
	if len(words) > most {
		return usageError(fmt.Sprintf("%s takes at most %d, and there are %d: see `vifproxy-client --help`", verb, most, len(words)))
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	switch verb {
	case "notify":
		return runNotify(ctx, log)
	case "unblock":
		return runUnblock(ctx, in, out, words, *always)
	case "setup":
		s := setup{log: log, root: *root, gateway: gateway, answers: answers, port: proxyPort, wait: *wait}
		if *remove {
			return s.remove()
		}
		return s.start(ctx)
	case "settings":
		return printSettings(ctx, out, strings.Join(words, ""))
	}
	_, err := fmt.Fprintf(out, "vifproxy-client %s\n", defaults.Version())
	return err
}

// hostsMax is how many hosts one command may name: dom0 asks about each.
const hostsMax = 10

// withoutTime leaves out what the journal adds.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		return slog.Attr{}
	}
	return a
}

func printHelp(out io.Writer) error {
	_, err := io.WriteString(out, usage.Fill(help))
	return err
}

// printSettings prints the settings of one format, or the files that setup writes.
func printSettings(ctx context.Context, out io.Writer, format string) error {
	var f settings.Format
	if format != "" {
		var err error
		if f, err = settings.FormatNamed(format); err != nil {
			return usageError(fmt.Sprintf("there is no format %q: %v", format, err))
		}
	}
	address, err := gateway(ctx)
	if err != nil {
		return fmt.Errorf("the gateway of this VM is not known: %w", err)
	}
	proxy := browsers.Proxy{Host: address, Port: proxyPort}
	if format != "" {
		text, err := f.Text(proxy)
		if err == nil {
			_, err = io.WriteString(out, text)
		}
		return err
	}
	files, err := settings.Files(proxy)
	if err != nil {
		return err
	}
	rows := [][]string{}
	for _, f := range files {
		rows = append(rows, []string{f.Path, f.For})
	}
	_, err = io.WriteString(out, usage.Aligned(rows))
	return err
}
