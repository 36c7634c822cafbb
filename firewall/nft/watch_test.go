package nft

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	. "vifproxy/firewall/firewalltest"

	"vifproxy/internal/await"
	"vifproxy/internal/netlink"
)

// watch runs Watch in the current namespace until it ends, the test does, or stop is called, which returns what Watch
// returned.
func watch(t *testing.T, wake func()) (stop func() error, ended chan struct{}) {
	t.Helper()
	ns, err := netns.Get()
	Must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			result <- err
			return
		}
		result <- Watch(ctx, wake)
	}()
	stop = func() error { cancel(); await.Value(t, "the end of watching", ended); return <-result }
	t.Cleanup(func() { cancel(); await.Value(t, "the end of watching", ended); ns.Close() })
	return stop, ended
}

func TestWatch(t *testing.T) {
	EnterNamespace(t)
	wakes := make(chan struct{}, 100)
	stop, _ := watch(t, func() { wakes <- struct{}{} })
	await.Value(t, "the wake that something may have changed before Watch began", wakes)
	for _, change := range []string{
		"nft add table ip mine",
		"nft add chain ip mine c",
		"nft add rule ip mine c accept",
		"iptables-nft -N MINE",
		"nft flush ruleset",
	} {
		Run(t, "", "sh", "-c", change)
		await.Value(t, "the wake after "+change, wakes)
	}
	if err := stop(); err != nil {
		t.Errorf("Watch returned %v", err)
	}
}

// What this process writes itself over netlink is not news. In a pid namespace it is, see foreign.
func TestOwnWritesAreNotForeign(t *testing.T) {
	const initial = "pid:[4026531836]" // PROC_PID_INIT_INO of the kernel
	pids, err := os.Readlink("/proc/self/ns/pid")
	Must(t, err)
	hidden := pids != initial
	EnterNamespace(t)
	m := Machines[1]
	b := open(t, m)
	conn, err := subscribe()
	Must(t, err)
	defer conn.Close()
	var got []bool // foreign or not, of each transaction in turn
	collect := func(n int) {
		for len(got) < n {
			messages, err := conn.Receive()
			Must(t, err)
			for _, m := range messages {
				if m.Type&0xff == 15 { // NFT_MSG_NEWGEN
					got = append(got, foreign(m))
				}
			}
		}
	}
	Bind(t, b, Personal, Social)
	Bind(t, b, Social)
	collect(2)
	m.Shell(t, "nft flush set ip vifproxy bindings")
	collect(3)
	Bind(t, b, Personal)
	collect(4)
	if want := [4]bool{hidden, hidden, true, hidden}; [4]bool(got) != want {
		t.Errorf("foreign: %v, want %v", got, want)
	}
}

// When notifications come faster than they are read, the kernel drops some (ENOBUFS). Watch ends, since what it missed is
// unknown.
func TestWatchOverflow(t *testing.T) {
	EnterNamespace(t)
	wakes := make(chan struct{})
	stop, ended := watch(t, func() { wakes <- struct{}{} })
	await.Value(t, "the first wake", wakes)
	Run(t, "", "nft", "add", "table", "ip", "mine") // Watch is now stuck in its wake, until somebody reads it

	conn, err := nftables.New(nftables.AsLasting())
	Must(t, err)
	defer conn.CloseLasting()
	for range 5000 { // each takes about a kilobyte in the socket's buffer of two megabytes
		conn.AddTable(&nftables.Table{Name: "flood", Family: nftables.TableFamilyIPv4})
		conn.DelTable(&nftables.Table{Name: "flood", Family: nftables.TableFamilyIPv4})
		Must(t, conn.Flush())
	}
	for waiting := true; waiting; {
		select {
		case <-wakes:
		case <-ended:
			waiting = false
		}
	}
	if err := stop(); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("Watch returned %v, want ENOBUFS", err)
	}
}

// TestAnotherProgramWithTheIDOfAThread: in a pid namespace, the kernel's id of another program may be that of a thread of ours. Its changes
// are news all the same.
func TestAnotherProgramWithTheIDOfAThread(t *testing.T) {
	own, err := os.ReadFile("/proc/self/comm")
	Must(t, err)
	for name, want := range map[string]bool{"nft": true, strings.TrimSpace(string(own)): false} {
		body := netlink.Append([]byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, 0}, unix.NFTA_GEN_PROC_PID, net32(uint32(os.Getpid()))...)
		body = netlink.AppendString(body, unix.NFTA_GEN_PROC_NAME, name)
		if got := foreign(netlink.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN, Body: body}); got != want {
			t.Errorf("%s: foreign %t", name, got)
		}
	}
}
