package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vifproxy/internal/capability"
)

// legacyInput is INPUT of iptables-legacy, whose rules nftables does not know, and whose changes the kernel tells nobody.
// It is read and written by that program, if the kernel has its table filter in this network.
type legacyInput struct {
	log  *slog.Logger
	cfg  Config
	path string // of the program
	told bool   // that it cannot be looked at
}

// errLegacy is the error of the older variant of iptables, which talks to the kernel by a raw socket and has a lock in
// a directory of root's: it needs more than its successor, which CAP_NET_ADMIN is enough for, and says so badly.
var errLegacy = errors.New("only root can use iptables-legacy, with CAP_NET_RAW (use iptables-nft, on Debian by " +
	"`update-alternatives --config iptables`; or have vifproxyd run as root, by /usr/share/doc/vifproxy/examples/run-as-root.conf)")

const lockTimeout = 1 // seconds to wait for another iptables-legacy to release the lock of all of them

// legacyTables are those that iptables-legacy has made in this thread's network, for IPv4 ("ip") or IPv6 ("ip6"). To ask
// the program would make them.
func legacyTables(ip string) ([]string, error) {
	text, err := os.ReadFile("/proc/thread-self/net/" + ip + "_tables_names")
	if errors.Is(err, fs.ErrNotExist) { // a kernel without them
		return nil, nil
	}
	return strings.Fields(string(text)), err
}

// legacyProgram finds iptables-legacy for "ip", ip6tables-legacy for "ip6". Before iptables 1.8 there was no other and it
// was called iptables.
func legacyProgram(ctx context.Context, ip string) (path string, err error) {
	if os.Geteuid() != 0 || !capability.Have(unix.CAP_NET_RAW) {
		return "", errLegacy
	}
	if path = find(ip + "tables-legacy"); path != "" {
		return path, nil
	}
	if path = find(ip + "tables"); path == "" {
		return "", fmt.Errorf("there are tables of iptables-legacy, and the program is not installed (install the package iptables)")
	}
	version, err := execute(ctx, "", path, "--version")
	if err == nil && strings.Contains(version, "(nf_tables)") {
		err = fmt.Errorf("there are tables of iptables-legacy, and %s is another one (install iptables-legacy)", path)
	}
	return path, err
}

func (in *legacyInput) String() string { return "chain INPUT of iptables-legacy" }

// read says that there is no chain if we are not who can look.
func (in *legacyInput) read(ctx context.Context) (rules []inputRule, there bool, err error) {
	tables, err := legacyTables("ip")
	if err == nil && slices.Contains(tables, "filter") {
		in.path, err = legacyProgram(ctx, "ip")
	} else if err == nil {
		return nil, false, nil
	}
	if errors.Is(err, errLegacy) || errors.Is(err, fs.ErrPermission) {
		// Mostly somebody has listed the rules once with that program, which makes empty tables.
		if !in.told {
			in.log.Warn("rules of iptables-legacy cannot be looked at: what they refuse to AppVMs stays refused", "err", err)
		}
		in.told = true
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	text, err := execute(ctx, "", in.path, "-w", fmt.Sprint(lockTimeout), "-S", "INPUT")
	if err != nil {
		return nil, false, err
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "-A ") {
			ours := strings.Contains(line, fmt.Sprintf(" --comment %q ", admissionComment))
			rules = append(rules, inputRule{ours: ours, print: line})
		}
	}
	return rules, true, nil
}

// write cannot tell whether the chain was changed since, but what it deletes it deletes by its content.
func (in *legacyInput) write(ctx context.Context, gone []inputRule, admit bool) error {
	var changes []string
	for _, r := range gone {
		changes = append(changes, deletion(r.print))
	}
	if admit {
		changes = append(changes, fmt.Sprintf("-I INPUT -p tcp -m tcp --dport %d:%d -m conntrack --ctstate DNAT --ctorigdstport %d "+
			"-m comment --comment %q -j ACCEPT", in.cfg.FirstPort, in.cfg.LastPort, in.cfg.ProxyPort, admissionComment))
	}
	return restore(ctx, in.path, "filter", changes...)
}

// deletion is the line that deletes a rule.
func deletion(rule string) string { return strings.Replace(rule, "-A ", "-D ", 1) }

// restore makes changes to one table as one transaction.
func restore(ctx context.Context, path, table string, changes ...string) error {
	text := "*" + table + "\n" + strings.Join(changes, "\n") + "\nCOMMIT\n"
	return load(ctx, text, path+"-restore", "--noflush", "--wait", fmt.Sprint(lockTimeout))
}

// oldJump is a rule of an older version that leads to one of its chains, as iptables -S prints it.
var oldJump = regexp.MustCompile(`^-A (?:INPUT|PREROUTING|OUTPUT -m owner --uid-owner [0-9]+-[0-9]+) ` +
	`-m comment --comment vifproxy -j VIFPROXY(?:-OUT)?$`)

func (in *legacyInput) discardOld(ctx context.Context) (err error) {
	for _, ip := range []string{"ip", "ip6"} {
		tables, e := legacyTables(ip)
		for _, table := range tables {
			if e == nil && (table == "filter" || table == "nat" && ip == "ip") {
				e = discardOldTable(ctx, ip, table)
			}
		}
		if !errors.Is(e, errLegacy) { // no earlier run as who we are can have left such rules
			err = errors.Join(err, e)
		}
	}
	return err
}

func discardOldTable(ctx context.Context, ip, table string) error {
	path, err := legacyProgram(ctx, ip)
	if err != nil {
		return err
	}
	text, err := execute(ctx, "", path, "-w", fmt.Sprint(lockTimeout), "-t", table, "-S")
	if err != nil {
		return err
	}
	var empty, remove []string
	lines := strings.Split(text, "\n")
	for _, line := range lines {
		if oldJump.MatchString(line) {
			empty = append(empty, deletion(line))
		}
	}
	for _, chain := range oldChains {
		if slices.Contains(lines, "-N "+chain) {
			empty, remove = append(empty, "-F "+chain), append(remove, "-X "+chain)
		}
	}
	if len(empty) == 0 {
		return nil
	}
	// The empty chains come after, one by one: one that a foreign rule leads to must stay.
	err = restore(ctx, path, table, empty...)
	for _, line := range remove {
		err = errors.Join(err, restore(ctx, path, table, line))
	}
	return err
}
