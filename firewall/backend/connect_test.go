package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/switchboard"
	"vifproxy/firewall/switchboard/handover"
	"vifproxy/firewall/switchboard/programs"
	"vifproxy/internal/cgroup"
	"vifproxy/internal/sockdiag"
)

// The first rule decides about the packets of an AppVM that connects to its own gateway. Packets to another address of this machine come to
// the second one. Connection tracking has neither, also if somebody has emptied the set of the first rule.
func TestFewRulesForHandedConnections(t *testing.T) {
	EnterNamespace(t)
	Machines[0].LoadForeign(t)
	vm, at := newDoor(t), 0
	Run(t, "", "ip", "addr", "add", "10.138.0.9/32", "dev", "lo")
	at = handOver(t)
	Run(t, "", "sh", "-ec", `nft add rule ip vifproxy untracked_in tcp dport 8100 counter
		nft add rule ip vifproxy output tcp sport 8100 counter`)
	later := func() (packets []string) {
		for _, chain := range []string{"untracked_in", "output"} {
			_, after, _ := strings.Cut(Run(t, "", "nft", "list", "chain", "ip", "vifproxy", chain), "counter packets ")
			count, _, _ := strings.Cut(after, " ")
			packets = append(packets, count)
		}
		return packets
	}
	connect := func(last byte) {
		t.Helper()
		Must(t, vm.Do(func() error {
			_, err := connectOnce(unix.SockaddrInet4{Port: 8100, Addr: [4]byte{10, 138, 0, last}}, at)
			return err
		}))
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		Must(t, err)
		for _, f := range flows {
			if f.Forward.SrcIP.String() == vm.Addr {
				t.Errorf("tracked: %s", f)
			}
		}
	}
	connect(1)
	if got := later(); !slices.Equal(got, []string{"0", "0"}) {
		t.Errorf("packets to the gateway that the first rule passes on: %q", got)
	}
	connect(9)
	if got := later(); slices.Contains(got, "0") {
		t.Errorf("packets to another address that the first rule passes on: %q", got)
	}
	Run(t, "", "nft", "flush", "set", "ip", "vifproxy", "handed")
	connect(1)
}

// What our rules and programs add to a new connection of an AppVM, until both ends have it. The floor is a firewall VM with Qubes' rules,
// and one that accepts the port. The kernel does all of it in the thread that connects, so nothing waits for a processor. "ns" is the
// fastest of many. For "cold-ns", the caches of the processor have forgotten all that was looked at before, as they have after a pause;
// of these times, a tenth is shorter.
func BenchmarkConnect(b *testing.B) {
	type place struct {
		name string
		vm   *Host
		at   int // the listening socket
		warm time.Duration
		cold []time.Duration
	}
	done := make(chan struct{})
	defer close(done)
	in := func(name string, prepare func() int) *place {
		made := make(chan *place)
		go func() { // the thread is the firewall VM
			EnterNamespace(b)
			Machines[0].LoadForeign(b)
			vm := newDoor(b)
			made <- &place{name: name, vm: vm, at: prepare(), warm: time.Hour}
			<-done
		}()
		return <-made
	}
	places := []*place{in("plain", func() int {
		Run(b, "", "nft", "add", "rule", "ip", "qubes", "custom-input", "tcp dport 8100 accept")
		return listen(b, 0, 8100)
	}), in("ours", func() int { return handOver(b) })}
	to := unix.SockaddrInet4{Port: 8100, Addr: [4]byte{10, 138, 0, 1}}
	trash := make([]byte, 6<<20) // more than a processor's own caches
	for b.Loop() {
		for _, p := range places {
			Must(b, p.vm.Do(func() error {
				for i := range 25 {
					cold := i%5 == 0
					for j := 0; cold && j < len(trash); j += 64 {
						trash[j]++
					}
					took, err := connectOnce(to, p.at)
					if err != nil {
						return fmt.Errorf("%s: %w", p.name, err)
					}
					if cold {
						p.cold = append(p.cold, took)
					} else {
						p.warm = min(p.warm, took)
					}
				}
				return nil
			}))
		}
	}
	for _, p := range places {
		slices.Sort(p.cold)
		b.ReportMetric(float64(p.warm), p.name+"-ns")
		b.ReportMetric(float64(p.cold[len(p.cold)/10]), p.name+"-cold-ns")
	}
}

// newDoor attaches an AppVM as Qubes does.
func newDoor(t testing.TB) *Host {
	vm := Attach(t, Personal.Vif, Personal.Addr.String(), Gateway, 2)
	Run(t, "", "nft", "add", "element", "ip", "qubes", "allowed", "{ vif1.0 . 10.137.0.11 }")
	return vm
}

// handOver has the real switchboard hand the AppVM's connections to a socket, which it returns.
func handOver(t testing.TB) (at int) {
	home, err := cgroup.Own()
	Must(t, err)
	group, err := os.MkdirTemp(home, "vifproxy-test-")
	Must(t, err)
	t.Cleanup(func() {
		for errors.Is(os.Remove(group), unix.EBUSY) {
			time.Sleep(time.Millisecond)
		}
	})
	attached, err := programs.Attach(group)
	Must(t, err)
	t.Cleanup(func() { attached.Close() })
	var files []*os.File
	for _, d := range attached.Descriptors() {
		fd, err := unix.FcntlInt(uintptr(d.FD), unix.F_DUPFD_CLOEXEC, 0)
		Must(t, err)
		files = append(files, os.NewFile(uintptr(fd), d.Name))
	}
	kernel, err := handover.Obtain(t.Context(), files, handover.Options{Group: group})
	Must(t, err)
	t.Cleanup(func() { kernel.Close() })
	board, err := switchboard.Open(kernel, TestConfig.ProxyPort)
	Must(t, err)
	fw, err := Open(t.Context(), Quiet, "nftables", TestConfig)
	Must(t, err)
	fw, err = WithSwitchboard(t.Context(), Quiet, fw, board, TestConfig)
	Must(t, err)

	Must(t, board.Expect(Personal.To))
	move := func(to string) { Must(t, os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte("0"), 0)) }
	move(group) // sockets keep the cgroup that their maker has
	at = listen(t, PersonalUID, Personal.To.Port())
	move(home)
	bound := Personal
	socket, err := sockdiag.Listener(bound.To)
	Must(t, err)
	link, err := netlink.LinkByName(bound.Vif)
	Must(t, err)
	bound.Socket, bound.Link = socket.Cookie, int32(link.Attrs().Index)
	Sync(t, fw, firewall.State{Bindings: []firewall.Binding{bound}, Fence: firewall.Fence{Proxies: Everywhere(PersonalUID)}})
	return at
}

func listen(t testing.TB, uid int, port uint16) (fd int) {
	As(t, uid, func() {
		var err error
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		Must(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		Must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		Must(t, unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: Personal.To.Addr().As4()}))
		Must(t, unix.Listen(fd, 128))
	})
	return fd
}

// connectOnce connects to a socket, and returns what that took. Both ends are closed with a reset.
func connectOnce(to unix.SockaddrInet4, at int) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = unix.Connect(fd, &to)
	took := time.Since(began)
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	conn, _, err := unix.Accept4(at, unix.SOCK_CLOEXEC)
	if err == nil {
		err = errors.Join(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), unix.Close(conn))
	}
	return took, errors.Join(err, unix.Close(fd))
}
