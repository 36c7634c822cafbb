package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var rulesets = []Ruleset{R42, R41}

const orphanEnv = "VIFPROXYLAB_TEST_ORPHAN"

// TestMain plays, when asked, a process that is killed while it has a lab; see TestReclaim.
func TestMain(m *testing.M) {
	if os.Getenv(orphanEnv) == "" {
		os.Exit(m.Run())
	}
	l, err := New(context.Background(), Options{})
	if err == nil {
		err = l.Attach(personal)
	}
	if err == nil {
		err = l.Command(context.Background(), "sleep", "1000").Start()
	}
	fmt.Println(l.Name, err)
	select {}
}

var (
	personal = VM{Name: "personal", IP: netip.MustParseAddr("10.137.0.15"), DomID: 2}
	work     = VM{Name: "work", IP: netip.MustParseAddr("10.137.0.16"), DomID: 3}
)

func newLab(t *testing.T, o Options, vms ...VM) *Lab {
	t.Helper()
	l, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, vm := range vms {
		if err := l.Attach(vm); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func eachRuleset(t *testing.T, f func(*testing.T, Ruleset)) {
	for _, r := range rulesets {
		t.Run(string(r), func(t *testing.T) { f(t, r) })
	}
}

// output runs a program in the firewall VM and returns what it prints.
func output(t *testing.T, l *Lab, args ...string) string {
	t.Helper()
	out, err := l.Command(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// accepting opens a listener in the firewall VM that accepts and closes.
func accepting(t *testing.T, l *Lab, addr string) {
	t.Helper()
	var listener net.Listener
	err := l.Do(func() (err error) {
		listener, err = net.Listen("tcp4", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
}

func dials(t *testing.T, l *Lab, vm, addr string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := l.Dial(ctx, vm, "tcp4", addr)
	if err == nil {
		conn.Close()
	}
	return err
}

func TestFirewallIsClosedUntilOpened(t *testing.T) {
	open := map[Ruleset]string{
		R42: `nft add rule ip qubes custom-input iifname "vif2.0" tcp dport 8100 accept`,
		R41: `iptables -I INPUT -i vif2.0 -p tcp --dport 8100 -j ACCEPT`,
	}
	flush := map[Ruleset]string{R42: "nft flush ruleset", R41: "iptables -F"}
	eachRuleset(t, func(t *testing.T, r Ruleset) {
		l := newLab(t, Options{Ruleset: r}, personal, work)
		accepting(t, l, "0.0.0.0:8100")
		gateway := Gateway.String() + ":8100"
		if err := dials(t, l, "personal", gateway); err == nil {
			t.Error("an AppVM reaches a port of the firewall VM that nothing opened")
		}
		output(t, l, strings.Fields(strings.ReplaceAll(open[r], `"`, ""))...)
		if err := dials(t, l, "personal", gateway); err != nil {
			t.Error("the port was opened:", err)
		}
		if err := dials(t, l, "work", gateway); err == nil {
			t.Error("the port was opened for another vif")
		}
		if err := dials(t, l, "personal", personal.IP.String()+":22"); err == nil {
			t.Error("the AppVM has an open port that nobody opened")
		}

		output(t, l, strings.Fields(flush[r])...)
		if err := l.LoadRules(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := dials(t, l, "personal", gateway); err == nil {
			t.Error("the port is still open after the rules were loaded again")
		}
		if err := dials(t, l, "personal", "198.51.100.1:80"); err != nil {
			t.Error("with its rules loaded again the firewall VM does not forward:", err)
		}
	})
}

// sink opens a UDP socket in the internet or wherever do leads, and returns a function that waits for the
// next packet and says what is in it and where it came from.
func sink(t *testing.T, do func(func() error) error, addr string) (next func() (string, netip.Addr)) {
	t.Helper()
	var conn net.PacketConn
	err := do(func() (err error) {
		conn, err = net.ListenPacket("udp4", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return func() (string, netip.Addr) {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n]), from.(*net.UDPAddr).AddrPort().Addr()
	}
}

// send sends one UDP packet from personal, with any source address.
func send(t *testing.T, l *Lab, source netip.Addr, to, text string) {
	t.Helper()
	conn, err := l.DialFrom(t.Context(), "personal", source, "udp4", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

const outsideSink = "198.51.100.1:9999"

func TestNobodySpoofs(t *testing.T) {
	eachRuleset(t, func(t *testing.T, r Ruleset) {
		l := newLab(t, Options{Ruleset: r}, personal, work)
		next := sink(t, l.DoInternet, outsideSink)
		// All go the same way, so the last one's arrival is proof that those before it were dropped.
		for _, source := range []netip.Addr{work.IP, netip.MustParseAddr("192.0.2.77"), personal.IP} {
			send(t, l, source, outsideSink, source.String())
		}
		got, from := next()
		if got != personal.IP.String() {
			t.Errorf("a packet with the source address %s got out", got)
		}
		if from != uplinkFirewall.Addr() {
			t.Errorf("the packet came from %v, want it masqueraded", from)
		}
	})
}

func TestAppVMsDoNotReachOneAnother(t *testing.T) {
	eachRuleset(t, func(t *testing.T, r Ruleset) {
		l := newLab(t, Options{Ruleset: r}, personal, work)
		outside := sink(t, l.DoInternet, outsideSink)
		inWork := sink(t, func(f func() error) error { return l.DoVM("work", f) }, ":9999")
		send(t, l, personal.IP, work.IP.String()+":9999", "from an AppVM")
		send(t, l, personal.IP, outsideSink, "the firewall VM is done with the one before")
		outside()
		err := l.Do(func() error {
			conn, err := net.Dial("udp4", work.IP.String()+":9999")
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte("from the firewall VM"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := inWork(); got != "from the firewall VM" {
			t.Errorf("a packet %s reached another AppVM", got)
		}
	})
}

func TestNames(t *testing.T) {
	l := newLab(t, Options{})
	l.Host("evil.example", netip.MustParseAddr("127.0.0.1"))
	l.Host("two.test", netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2"))
	l.Host("gone.example")
	resolve := func(name string) []string {
		out, err := l.Command(t.Context(), "getent", "ahostsv4", name).Output()
		if exit, ok := err.(*exec.ExitError); ok && exit.ExitCode() == 2 { // getent(1): not found
			return nil
		} else if err != nil {
			t.Fatal(err)
		}
		var addrs []string
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); f[1] == "STREAM" {
				addrs = append(addrs, f[0])
			}
		}
		return addrs
	}
	for name, want := range map[string]string{
		"evil.example": "[127.0.0.1]", "two.test": "[203.0.113.1 203.0.113.2]", "gone.example": "[]",
		"echo.example": "[203.0.113.7]", "nowhere.test": "[]",
	} {
		if got := fmt.Sprint(resolve(name)); got != want {
			t.Errorf("%s resolves to %s, want %s", name, got, want)
		}
	}
	bank, shop := fmt.Sprint(resolve("bank.example")), fmt.Sprint(resolve("shop.example"))
	if bank == "[]" || shop == "[]" || bank == shop {
		t.Errorf("bank.example resolves to %s and shop.example to %s, want one origin each", bank, shop)
	}
	if again := fmt.Sprint(resolve("bank.example")); again != bank {
		t.Errorf("bank.example first resolves to %s, then to %s", bank, again)
	}
}

func TestLabsStandSideBySide(t *testing.T) {
	a := newLab(t, Options{}, personal)
	b := newLab(t, Options{Ruleset: R41}, personal)
	reached := func(l *Lab) int {
		n, err := l.Reached("198.51.100.1", 80)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := dials(t, a, "personal", "198.51.100.1:80"); err != nil {
		t.Fatal(err)
	}
	if reached(a) != 1 || reached(b) != 0 {
		t.Errorf("one lab's connection was counted %d times there and %d times elsewhere", reached(a), reached(b))
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := dials(t, b, "personal", "198.51.100.1:80"); err != nil {
		t.Error("after the other lab was closed:", err)
	}
	if err := a.Close(); err != nil {
		t.Error("closed twice:", err)
	}
	if err := a.Do(func() error { return nil }); err == nil {
		t.Error("a closed lab has a firewall VM")
	}
}

// remains returns what there is of a lab.
func remains(t *testing.T, lab string) []string {
	t.Helper()
	var found []string
	for _, dir := range []string{spacesDir, etcDir} {
		some, err := filepath.Glob(filepath.Join(dir, lab+"-*"))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, some...)
	}
	return found
}

func TestCloseLeavesNothing(t *testing.T) {
	l := newLab(t, Options{}, personal)
	sleeper := l.Command(t.Context(), "sleep", "1000")
	inVM := l.VMCommand(t.Context(), "personal", "sleep", "1000")
	for _, cmd := range []*exec.Cmd{sleeper, inVM} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		awaitExec(t, cmd.Process.Pid)
	}
	if len(remains(t, l.Name)) < 4 {
		t.Errorf("the test looks in the wrong places: %q", remains(t, l.Name))
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for _, cmd := range []*exec.Cmd{sleeper, inVM} {
		// The lab has killed it already; Wait would otherwise last as long as the sleep.
		if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Errorf("%v: %v, want it killed", cmd, err)
		}
	}
	if found := remains(t, l.Name); len(found) > 0 {
		t.Errorf("left behind: %q", found)
	}
}

// awaitExec waits until a process that Command started has become the program itself.
func awaitExec(t *testing.T, pid int) {
	t.Helper()
	for t.Context().Err() == nil {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			t.Fatal(err)
		}
		if string(name) == "sleep\n" {
			return
		}
	}
}

func TestReclaim(t *testing.T) {
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), orphanEnv+"=1")
	stdout, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	name, trouble, _ := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil || trouble != "<nil>" {
		t.Fatal(err, trouble)
	}
	if err := Reclaim(); err != nil {
		t.Fatal(err)
	}
	if len(remains(t, name)) == 0 {
		t.Error("the lab of a running process was removed")
	}
	if err := owner.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// It is reclaimed before anybody waits for the process, and maybe nobody ever does.
	pidfd, err := unix.PidfdOpen(owner.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := awaitExit(pidfd, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	defer owner.Wait() //nolint:errcheck // it reports the kill
	if err := Reclaim(); err != nil {
		t.Fatal(err)
	}
	if found := remains(t, name); len(found) > 0 {
		t.Errorf("left behind: %q", found)
	}
}

// The kernel's table of connections is that of a VM, and not of the machine that plays it.
func TestTableOfConnections(t *testing.T) {
	const file = "/proc/sys/net/ipv4/tcp_ehash_entries"
	if _, err := os.Stat(file); err != nil {
		t.Skip("all namespaces share one table before Linux 6.1:", err)
	}
	l := newLab(t, Options{}, personal)
	for name, do := range map[string]func(func() error) error{"the firewall VM": l.Do, "the internet": l.DoInternet,
		"an AppVM": func(f func() error) error { return l.DoVM("personal", f) }} {
		var has []byte
		if err := do(func() (err error) { has, err = os.ReadFile(file); return err }); err != nil || string(has) != places+"\n" {
			t.Errorf("%s has %s, %v", name, has, err)
		}
	}
}
