// Vifproxyctl shows and steers what vifproxyd does. All it knows it asks the daemon; see package control.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
	"vifproxy/rules"
)

// Exit statuses.
const (
	exitFailed = 1 + iota // the daemon refused, or a VM is in trouble
	exitUsage
	exitNotRunning
	exitPermission
	exitFails // a request fails although nothing refuses it
)

func main() {
	os.Exit(env{version: defaults.Version(), stdout: os.Stdout, stderr: os.Stderr}.run(os.Args[1:]))
}

// An env is what a run has around it.
type env struct {
	version        string // of this program
	root           string // before the paths of the system's files: "", but in tests
	stdout, stderr io.Writer
}

// call is one invocation, parsed.
type call struct {
	env
	socket string
	json   bool
	names  []string

	rulesDir, template, tinyproxy                                     string // files, for verbs that read them themselves
	apply, fix, subdomains, dryRun, force, follow, wide, all, verbose bool
	duration, since                                                   length
	lines                                                             int // -1: all
	format                                                            string

	theirs string // the rule directory of vifproxyd, once it was asked
}

// warn tells what is no error, but what the caller has to know.
func (c *call) warn(format string, args ...any) {
	complain(c.stderr, fmt.Sprintf(format, args...))
}

// complain prints a message, wrapped if a terminal shows it.
func complain(w io.Writer, text string) {
	_, _ = io.WriteString(w, usage.Wrap("vifproxyctl: "+terminal.Quote(text), terminal.Width(w), 4))
}

func (e env) run(args []string) int {
	err := e.invoke(args)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errTrouble) { // that has been told VM by VM
		complain(e.stderr, err.Error())
	}
	var (
		wrong      *usageError
		notRunning *control.NotRunningError
		permission *control.PermissionError
		said       *control.DaemonError
	)
	switch {
	case errors.As(err, &wrong), errors.As(err, &said) && said.Code == http.StatusBadRequest:
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

// usageError is a mistake in the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

func (e env) invoke(args []string) error {
	c := &call{env: e, lines: -1}
	var help, showVersion bool
	flags := flag.NewFlagSet("vifproxyctl", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // its words come back as an error
	flags.StringVar(&c.socket, "socket", defaults.ControlSocket, "")
	flags.BoolVar(&c.json, "json", false, "")
	flags.StringVar(&c.rulesDir, "rules-dir", "", "")
	flags.BoolVar(&c.apply, "apply", false, "")
	flags.StringVar(&c.template, "template", "", "")
	flags.StringVar(&c.tinyproxy, "tinyproxy", defaults.Tinyproxy, "")
	flags.BoolVar(&c.fix, "fix", false, "")
	flags.BoolVar(&c.subdomains, "subdomains", false, "")
	flags.BoolVar(&c.dryRun, "dry-run", false, "")
	flags.BoolVar(&c.force, "force", false, "")
	flags.BoolVar(&c.wide, "wide", false, "")
	flags.BoolVar(&c.all, "all", false, "")
	flags.BoolVar(&c.verbose, "verbose", false, "")
	flags.Var(&c.duration, "for", "")
	flags.Var(&c.since, "since", "")
	flags.StringVar(&c.format, "format", "env", "")
	flags.BoolVar(&c.follow, "f", false, "")
	flags.BoolVar(&c.follow, "follow", false, "")
	flags.IntVar(&c.lines, "n", -1, "")
	flags.BoolVar(&help, "help", false, "")
	flags.BoolVar(&help, "h", false, "")
	flags.BoolVar(&showVersion, "version", false, "")
	words, err := parse(flags, args)
	if err != nil {
		return wrongOption(flags, args, err)
	}
	switch {
	case showVersion:
		words = []string{"version"}
	case len(words) == 0 && help:
		words = []string{"help"}
	case len(words) == 0:
		return usagef("what shall be done? `vifproxyctl show` lists all VMs; see `vifproxyctl --help`")
	case help:
		words = []string{"help", words[0]}
	}
	v, err := find(words[0])
	if err != nil {
		return err
	}
	var foreign string
	flags.Visit(func(f *flag.Flag) {
		if !slices.Contains(general, f.Name) && !v.takes(f.Name) {
			foreign = f.Name
		}
	})
	if foreign != "" {
		return usagef("%s does not take %s", v.name, dashed(foreign))
	}
	c.names = words[1:]
	switch n := len(c.names); {
	case 0 < n && n < v.least:
		return usagef("%s needs more: vifproxyctl %[1]s %s", v.name, v.args)
	case n < v.least:
		return usagef("%s needs the name of a VM; `vifproxyctl show` lists them", v.name)
	case slices.Contains(c.names, "") && !v.hidden:
		return usagef("%s: an argument is empty; see `vifproxyctl %[1]s --help`", v.name)
	case n > v.most:
		return usagef("%s: too many arguments; see `vifproxyctl %[1]s --help`", v.name)
	case c.lines < -1 || given(flags, "n") && c.lines < 0:
		return usagef("-n %d: want a number of lines, such as -n 20", c.lines)
	case c.json && !v.json:
		return usagef("%s does not take --json%s", v.name, v.noJSON)
	case c.since.d < 0:
		return usagef("--since=%s is in the future: write how long ago, such as 10m", c.since.typed)
	}
	return v.run(c)
}

// wrongOption says what is wrong with an option, and which one that the verb takes was meant.
func wrongOption(flags *flag.FlagSet, args []string, err error) error {
	known := usage.Names(flags, "f", "n", "h")
	for _, word := range args {
		if v, unknown := find(word); unknown == nil {
			flags.Init("vifproxyctl "+v.name, flag.ContinueOnError)
			known = slices.DeleteFunc(known, func(name string) bool { return !v.takes(name) && !slices.Contains(general, name) })
			break
		}
	}
	return usagef("%v", usage.Error(flags, args, err, known, map[string]string{"n": "a number of lines, such as -n 20"}))
}

// general are options of all verbs.
var general = []string{"socket", "json", "help", "h", "version"}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// given reports whether a flag was on the command line.
func given(flags *flag.FlagSet, name string) (is bool) {
	flags.Visit(func(f *flag.Flag) { is = is || f.Name == name })
	return is
}

// tailLines is how people write a number of lines for tail(1).
var tailLines = regexp.MustCompile(`^-n?([0-9]+)$`)

// parse takes flags wherever they stand, up to a "--", and returns the other words. Package flag on its own
// stops at the first word that is not a flag.
func parse(flags *flag.FlagSet, args []string) (words []string, err error) {
	args = slices.Clone(args)
	for i, arg := range args {
		if m := tailLines.FindStringSubmatch(arg); m != nil && (i == 0 || args[i-1] != "-n") {
			args[i] = "-n=" + m[1]
		}
	}
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		rest := flags.Args()
		if len(rest) == 0 {
			return words, nil
		}
		if before := len(args) - len(rest); before > 0 && args[before-1] == "--" {
			return append(words, rest...), nil
		}
		words, args = append(words, rest[0]), rest[1:]
	}
}

// errTrouble ends a run that has named every VM in trouble.
var errTrouble = errors.New("some VMs are in trouble")

// list is the verb show: it tells about troubles, and has none itself.
func list(c *call) error {
	status, err := control.NewClient(c.socket).Status(context.Background())
	if err != nil {
		return err
	}
	if err := known(status, c.names); err != nil {
		return err
	}
	vms := concerned(status, c.names)
	if err := print(c, vms); err != nil {
		return err
	}
	problems(c, status, vms)
	misnamed(c, status)
	return printRemarks(c, c.stdout, remarks(vms, func(control.VM) bool { return true }))
}

// change is a verb that changes something: it shows what became of the VMs concerned, the named ones or all, and
// fails if one of them, or with all of them the daemon itself, is in trouble.
func change(do func(*control.Client, context.Context, []string) (control.Status, error)) func(*call) error {
	return func(c *call) error {
		status, err := do(control.NewClient(c.socket), context.Background(), c.names)
		if err != nil {
			return err
		}
		vms := concerned(status, c.names)
		if err := print(c, vms); err != nil {
			return err
		}
		if status.Cut > 0 {
			c.warn("connections cut: %d", status.Cut)
		}
		problems(c, status, vms)
		misnamed(c, status)
		calm := func(vm control.VM) bool { return !vm.InTrouble() }
		if err := printRemarks(c, c.stdout, remarks(vms, calm)); err != nil {
			return err
		}
		if err := printRemarks(c, c.stderr, remarks(vms, control.VM.InTrouble)); err != nil {
			return err
		}
		if slices.ContainsFunc(vms, control.VM.InTrouble) || len(c.names) == 0 && len(status.Problems) > 0 {
			return errTrouble
		}
		return nil
	}
}

// concerned returns the VMs of these names, or all. A stopped VM whose rule file has gone may be named, but has no row.
func concerned(status control.Status, names []string) []control.VM {
	if len(names) == 0 {
		return status.VMs
	}
	return slices.DeleteFunc(slices.Clone(status.VMs), func(vm control.VM) bool { return !slices.Contains(names, vm.Name) })
}

// known returns an error if a name is not that of a VM.
func known(status control.Status, names []string) error {
	for _, name := range names {
		if _, err := pick(status, name); err != nil {
			return err
		}
	}
	return nil
}

// problems tells what is wrong with the daemon, but for what is said of VMs anyway.
func problems(c *call, status control.Status, vms []control.VM) {
	for _, b := range status.Barred {
		c.warn("proxies may not leave by %s, where what AppVMs send is dropped by %s", b.Interface, b.Rule)
	}
	for _, problem := range status.Problems {
		if !slices.ContainsFunc(vms, func(vm control.VM) bool { return vm.Error == problem }) {
			c.warn("problem: %s", terminal.Quote(problem))
		}
	}
}

// misnamed tells of files that were meant as rule files and are not read, and of a directory without any.
func misnamed(c *call, status control.Status) {
	dir := status.Setup.RulesDir
	if dir == "" {
		return
	}
	for _, text := range rules.Unread(dir, len(status.VMs)) {
		c.warn("%s", text)
	}
}
