// Package peers runs the forward proxies that somebody could have instead of vifproxyd: tinyproxy, squid and privoxy, set up by hand
// with a white list of a few hosts, HTTPS to port 443 only, and no cache on disk.
//
// A peer has its files in a directory of the caller's, and nothing of the distribution's own instance: not its configuration, its
// service, its log or its pid file.
package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// A Kind is a program that is a forward proxy.
type Kind struct {
	Name    string // of the program too
	Package string // of Debian
	files   func(Setup) (map[string]string, error)
	args    func(dir string) []string
}

// Kinds are the peers.
var (
	Tinyproxy = Kind{"tinyproxy", "tinyproxy-bin", tinyproxyFiles, func(dir string) []string { return []string{"-d", "-c", dir + "/config"} }}
	Squid     = Kind{"squid", "squid", squidFiles, func(dir string) []string { return []string{"-N", "-f", dir + "/config"} }}
	Privoxy   = Kind{"privoxy", "privoxy", privoxyFiles, func(dir string) []string {
		return []string{"--no-daemon", "--user", "nobody", dir + "/config"}
	}}
)

// Setup is what a peer is to do.
type Setup struct {
	Dir    string // for its files; it is made, and the peer's user may write there
	Listen netip.AddrPort
	Client netip.Addr // the only one that may use it
	Hosts  []string   // addresses, and names that stand for what is below them too
	Group  *os.File   // the cgroup in which it starts; nil for that of the caller
}

// A Machine is where a peer runs, as *lab.Lab is.
type Machine interface {
	// Command prepares a program to run there; signals to the process reach the program.
	Command(ctx context.Context, name string, args ...string) *exec.Cmd
	// Do runs f on a thread there.
	Do(f func() error) error
}

// ErrMissing says that a program is not installed.
var ErrMissing = errors.New("not installed")

// Times of a start and of an end.
const (
	startTime = 20 * time.Second
	endTime   = 5 * time.Second
	lookEvery = 5 * time.Millisecond
)

// Start runs a peer and returns when it listens. The caller ends it with end, which returns when it has ended. An error that
// is ErrMissing names the package; any other has what the program said.
func (k Kind) Start(ctx context.Context, m Machine, s Setup) (end func(), err error) {
	program, err := lookPath(k.Name)
	if err != nil {
		return nil, fmt.Errorf("%s is %w: apt-get install %s", k.Name, ErrMissing, k.Package)
	}
	files, err := k.files(s)
	if err != nil {
		return nil, err
	}
	// Each drops its privileges to a user of its own, and makes its log and pid file there.
	if err := errors.Join(os.MkdirAll(s.Dir, 0o755), os.Chmod(s.Dir, 0o777|os.ModeSticky)); err != nil {
		return nil, err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := m.Command(ctx, program, k.args(s.Dir)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endTime // then it is killed
	// As a service has, and each proxy of the daemon: the kernel shares processors among sessions, sched(7), "The autogroup feature".
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.Group != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(s.Group.Fd())
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() //nolint:errcheck // it is ended by a signal
	}()
	end = func() {
		cancel()
		<-ended
	}
	for deadline := time.Now().Add(startTime); !listens(m, s.Listen); time.Sleep(lookEvery) {
		var problem string
		select {
		case <-ended:
			problem = "has ended"
		default:
			if time.Now().Before(deadline) {
				continue
			}
			problem = "does not listen"
		}
		end()
		return nil, fmt.Errorf("%s, started by hand, %s; it said: %.2000s", k.Name, problem, said.Bytes())
	}
	return end, nil
}

// lookPath finds a program where a person who is not root may have no path to: daemons are in /usr/sbin.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return exec.LookPath("/usr/sbin/" + name)
	}
	return path, nil
}

// listens asks by connecting, from the machine itself.
func listens(m Machine, to netip.AddrPort) bool {
	return m.Do(func() error {
		conn, err := net.DialTimeout("tcp4", to.String(), time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	}) == nil
}

// tinyproxyFiles are those of the template that vifproxyd has built in.
func tinyproxyFiles(s Setup) (map[string]string, error) {
	text := rules.Builtin().Render(rules.Values{Port: s.Listen.Port(), VMIP: s.Client, BindIP: s.Listen.Addr(),
		LogFile: s.Dir + "/log", PidFile: s.Dir + "/pid", RulesFile: s.Dir + "/list"})
	_, text, err := tinyproxy.ParseConfig("", text) // without what this version does not know; with extended expressions
	var list strings.Builder
	for _, host := range s.Hosts {
		below := `([a-z0-9-]*\.)*`
		if isAddress(host) {
			below = ""
		}
		fmt.Fprintf(&list, "^%s%s$\n", below, regexp.QuoteMeta(host))
	}
	return map[string]string{
		"config": "User nobody\n" + text,
		"list":   list.String(),
	}, err
}

// squidFiles are what squid.conf of Debian's squid 5.7 comes to, with a list. It has no cache_dir, so nothing is cached on disk.
// Squid makes room for as many descriptors as it may have, which in a shell of root can be a million.
func squidFiles(s Setup) (map[string]string, error) {
	var list strings.Builder
	for _, host := range s.Hosts {
		if !isAddress(host) {
			host = "." + host // what is below it, and itself
		}
		fmt.Fprintln(&list, host)
	}
	return map[string]string{"list": list.String(), "config": fmt.Sprintf(`http_port %v
acl client src %v
acl listed dstdomain "%[3]s/list"
acl HTTPS port 443
acl Safe_ports port 80 443
acl CONNECT method CONNECT
http_access deny !Safe_ports
http_access deny CONNECT !HTTPS
http_access allow client listed
http_access deny all
max_filedescriptors 4096
pinger_enable off
access_log stdio:%[3]s/access.log
cache_log %[3]s/cache.log
coredump_dir %[3]s
netdb_filename none
pid_filename %[3]s/pid
shutdown_lifetime 0 seconds
`, s.Listen, s.Client, s.Dir)}, nil
}

// privoxyFiles block all hosts but the listed, in an actions file (privoxy 3.0.34, user manual, "Actions Files").
func privoxyFiles(s Setup) (map[string]string, error) {
	actions := "{ +block{not listed} +limit-connect{443} }\n/\n{ -block }\n"
	for _, host := range s.Hosts {
		if !isAddress(host) {
			host = "." + host
		}
		actions += host + "\n"
	}
	return map[string]string{"list.action": actions, "config": fmt.Sprintf(`listen-address %v
permit-access %v
confdir %[3]s
logdir %[3]s
logfile log
actionsfile list.action
max-client-connections 128
`, s.Listen, s.Client, s.Dir)}, nil
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}
