// Package legacy runs the program of iptables-legacy. nftables does not know its rules, and the kernel reports its changes to
// nobody.
//
// Concurrency: its functions may be called from anywhere; they are about the network of the calling thread.
package legacy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/capability"
)

// ErrMayNot means that the daemon may not use iptables-legacy. That program talks to the kernel by a raw socket and has a lock in a
// directory of root's, so it needs more than CAP_NET_ADMIN, which is enough for its successor. Its own message is unclear.
var ErrMayNot = errors.New("only root can use iptables-legacy, with CAP_NET_RAW (use iptables-nft, on Debian by " +
	"`update-alternatives --config iptables`; or have vifproxyd run as root, by /usr/share/doc/vifproxy/examples/run-as-root.conf)")

const lockTimeout = 1 // seconds to wait for another iptables-legacy to release the lock of all of them

// Tables returns the tables that iptables-legacy has made in this thread's network, for IPv4 ("ip") or IPv6 ("ip6"). Asking the
// program would make them.
func Tables(ip string) ([]string, error) {
	text, err := os.ReadFile("/proc/thread-self/net/" + ip + "_tables_names")
	if errors.Is(err, fs.ErrNotExist) { // a kernel without them
		return nil, nil
	}
	return strings.Fields(string(text)), err
}

// A Program is the path of iptables-legacy, or of ip6tables-legacy.
type Program string

// Find returns the program for "ip" or "ip6". Before iptables 1.8 it was the only one, and was called iptables.
func Find(ctx context.Context, ip string) (Program, error) {
	if os.Geteuid() != 0 || !capability.Have(unix.CAP_NET_RAW) {
		return "", ErrMayNot
	}
	path := find(ip + "tables-legacy")
	if path != "" {
		return Program(path), nil
	}
	if path = find(ip + "tables"); path == "" {
		return "", fmt.Errorf("there are tables of iptables-legacy, and the program is not installed (install the package iptables)")
	}
	version, err := execute(ctx, "", path, "--version")
	if err == nil && strings.Contains(version, "(nf_tables)") {
		err = fmt.Errorf("there are tables of iptables-legacy, and %s is another one (install iptables-legacy)", path)
	}
	return Program(path), err
}

// List returns what the program prints with these arguments.
func (p Program) List(ctx context.Context, args ...string) (string, error) {
	return execute(ctx, "", string(p), append([]string{"-w", strconv.Itoa(lockTimeout)}, args...)...)
}

// Restore makes changes to one table as one transaction.
func (p Program) Restore(ctx context.Context, table string, changes ...string) error {
	text := "*" + table + "\n" + strings.Join(changes, "\n") + "\nCOMMIT\n"
	if _, err := execute(ctx, text, string(p)+"-restore", "--noflush", "--wait", strconv.Itoa(lockTimeout)); err != nil {
		return fmt.Errorf("load rules with %w", err)
	}
	return nil
}

// find returns the path of a program, or "". It looks beyond PATH, because the PATH of a root shell or service does not always have
// the sbin folders.
func find(name string) string {
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	return ""
}

const (
	programTimeout = 10 * time.Second // of iptables
	outputTimeout  = time.Second      // of a process that it has left behind and that holds its output open
)

// execute runs a program, in the network of this thread, and returns what it prints.
func execute(ctx context.Context, stdin, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = outputTimeout
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %.1000s", path, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
