package names

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"vifproxy/names/wire"
)

// apart returns a socket for questions at port 53 of a network of its own, and a function that runs programs there. Their resolv.conf
// is the one that is given.
func apart(t *testing.T, resolvconf string) (questions *net.UDPConn, run func(name string, args ...string) string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(resolvconf), 0o644); err != nil {
		t.Fatal(err)
	}
	ran := make(chan []string)
	said := make(chan string)
	made := make(chan error)
	t.Cleanup(func() { close(ran) })
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		made <- func() (err error) {
			if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.Mount(path, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
				return err
			}
			// With an address that is not of loopback, getaddrinfo(3) asks for addresses of its family (AI_ADDRCONFIG).
			for _, args := range []string{"link set lo up", "address add 192.0.2.1/32 dev lo", "address add 2001:db8::1/128 dev lo"} {
				if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
					return fmt.Errorf("ip %s: %w: %s", args, err, out)
				}
			}
			questions, err = net.ListenUDP("udp4", &net.UDPAddr{Port: serverPort})
			return err
		}()
		for args := range ran {
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			if err != nil {
				out = fmt.Appendf(out, "%v", err)
			}
			said <- string(out)
		}
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	return questions, func(name string, args ...string) string {
		ran <- append([]string{name}, args...)
		return <-said
	}
}

// The C library takes the answers for what they are, and asks nothing that would be an alarm: with the search domain of its host name,
// after failures, for names with many addresses, and for those with one family.
func TestTheCLibraryIsAnswered(t *testing.T) {
	t.Parallel()
	server := serve(t, func(q dnsmessage.Question) *reply {
		var many []string
		for i := range 60 {
			many = append(many, fmt.Sprintf("93.184.216.%d", i))
		}
		switch first, _, _ := strings.Cut(q.Name.String(), "."); first {
		case "bank":
			return a(q, 300, "93.184.216.34", "2606:2800::1")
		case "many":
			return a(q, 300, many...)
		case "six":
			return a(q, 300, "2606:2800::1")
		case "private":
			return a(q, 300, "192.168.1.1")
		case "gone":
			return &reply{code: dnsmessage.RCodeNameError}
		case "intranet":
			if q.Name.String() == "intranet.corp.example." {
				return a(q, 300, "93.184.216.99")
			}
			return &reply{code: dnsmessage.RCodeNameError}
		}
		return &reply{code: dnsmessage.RCodeServerFailure}
	})
	questions, run := apart(t, "nameserver 127.64.0.1\nsearch lab.example other.example\n")
	m := startAt(t, questions, wire.Settings{Servers: []netip.Addr{server.addr}, Search: []string{"corp.example", "other.example"}, Dots: 1,
		Domain: "lab.example"})
	g := bank(1)
	g.Lines = append(g.Lines, `^intranet$`)
	m.open(g)
	either := "93.184.216.34"
	if !new(route).there() { // this machine has no network
		either = "2606:2800::1"
	}
	for name, want := range map[string]string{
		"bank.example": either, "Bank.Example": either, "bank.example.": either,
		"six.wild.example": "2606:2800::1", "intranet": "93.184.216.99",
		"private.wild.example": "", "gone.wild.example": "", "fails.wild.example": "",
	} {
		addrs := hosts(run("getent", "ahosts", name))
		if strings.Join(addrs, " ") != want {
			t.Errorf("%s: %v, want %q", name, addrs, want)
		}
	}
	if addrs := hosts(run("getent", "ahosts", "many.wild.example")); len(addrs) != addrsMax {
		t.Errorf("%d addresses of many", len(addrs))
	}
	if m.events(1, wire.Owned) > 0 {
		t.Errorf("an alarm: %s", describe(m.reports))
	}
	if addrs := hosts(run("getent", "ahosts", "evil.example")); len(addrs) > 0 {
		t.Errorf("evil.example: %v", addrs)
	}
	m.event(1, wire.Owned)
}

// hosts returns the different addresses that getent prints.
func hosts(out string) (addrs []string) {
	for line := range strings.Lines(out) {
		addr, _, _ := strings.Cut(line, " ")
		if _, err := netip.ParseAddr(addr); err == nil && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
