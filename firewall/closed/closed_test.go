package closed

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/internal/await"
	"vifproxy/internal/sockdiag"
)

// config has the port of AppVMs, and a range of one port.
var config = firewall.Config{ProxyPort: 8100, FirstPort: 61000, LastPort: 61000}

// answered connects to a port of this machine, which sends more than the client's window has room for, and closes. The client reads
// nothing by itself.
func answered(t *testing.T, from string, port int) (client int) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	Must(t, err)
	defer l.Close()
	client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	Must(t, err)
	t.Cleanup(func() { unix.Close(client) })
	Must(t, unix.SetsockoptInt(client, unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	Must(t, unix.Bind(client, &unix.SockaddrInet4{Addr: netip.MustParseAddr(from).As4()}))
	Must(t, unix.Connect(client, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port}))
	server, err := l.Accept()
	Must(t, err)
	_, err = server.Write(make([]byte, 20_000))
	Must(t, err)
	Must(t, server.Close())
	return client
}

// left returns how many closed connections there are, by address of the client and port of the server, and what they have to send.
func left(t *testing.T) (count map[string]int, unsent map[string]uint32) {
	t.Helper()
	all, err := sockdiag.Closed()
	Must(t, err)
	count, unsent = map[string]int{}, map[string]uint32{}
	for _, s := range all {
		at := netip.AddrPortFrom(s.Remote.Addr(), s.Local.Port()).String()
		count[at]++
		unsent[at] += s.Unsent
	}
	return count, unsent
}

// readsUntilItMoves has a client read until the server's end has less to send than before.
func readsUntilItMoves(t *testing.T, client int, at string, before uint32) {
	t.Helper()
	buf := make([]byte, 1<<10)
	await.Until(t, "what the client takes has moved", func() bool {
		_, _, err := unix.Recvfrom(client, buf, unix.MSG_DONTWAIT)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		_, now := left(t)
		return now[at] < before
	})
}

// looks looks as if it were a time later. It skips the test on a kernel that cannot end connections.
func (w *watch) looks(t *testing.T, at time.Time) (busy bool) {
	t.Helper()
	busy, err := w.look(at)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, errStays) {
		t.Skip(err)
	}
	Must(t, err)
	return busy
}

// TestWhatStandsStillIsEnded: at ports of proxies, and nowhere else; what has moved meanwhile goes on.
func TestWhatStandsStillIsEnded(t *testing.T) {
	EnterNamespace(t)
	const still, ranged, other, slow = "127.0.0.2:8100", "127.0.0.2:61000", "127.0.0.2:61001", "127.0.0.3:8100"
	answered(t, "127.0.0.2", 8100)
	answered(t, "127.0.0.2", 61000)
	answered(t, "127.0.0.2", 61001)
	reader := answered(t, "127.0.0.3", 8100)
	w := watch{Config: config}
	now := time.Now()
	w.looks(t, now)
	w.looks(t, now.Add(stillTime-1))
	count, before := left(t)
	for _, at := range []string{still, ranged, other, slow} {
		if count[at] != 1 {
			t.Fatalf("before the time is over: %v", count)
		}
	}
	readsUntilItMoves(t, reader, slow, before[slow])
	w.looks(t, now.Add(stillTime))
	if count, _ := left(t); count[still] != 0 || count[ranged] != 0 || count[other] != 1 || count[slow] != 1 {
		t.Errorf("when the time is over: %v", count)
	}
}

// TestOneAppVMHasSoManyClosedConnections: of more than these, what has moved lives, and so does what others have.
func TestOneAppVMHasSoManyClosedConnections(t *testing.T) {
	EnterNamespace(t)
	reader := answered(t, "127.0.0.2", 8100)
	answered(t, "127.0.0.3", 8100)
	w := watch{Config: config}
	now := time.Now()
	if w.looks(t, now) {
		t.Error("it is busy with two")
	}
	_, before := left(t)
	readsUntilItMoves(t, reader, "127.0.0.2:8100", before["127.0.0.2:8100"])
	for range keptMax + 10 {
		answered(t, "127.0.0.2", 8100)
	}
	if !w.looks(t, now.Add(1)) {
		t.Error("it is not busy")
	}
	if count, _ := left(t); count["127.0.0.2:8100"] != keptMax || count["127.0.0.3:8100"] != 1 {
		t.Errorf("%v", count)
	}
	total, buf := 0, make([]byte, 1<<10)
	for {
		n, _, err := unix.Recvfrom(reader, buf, 0)
		if err != nil {
			t.Fatalf("the reader after %d bytes: %v", total, err)
		}
		if n == 0 {
			break
		}
		total += n
	}
}
