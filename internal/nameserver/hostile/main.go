// Hostile plays a resolver, for the tests of package nameserver: one that works, as far as they need it, and by order one that somebody
// has taken over, or that has stopped. The domain in its settings says which, and a question of the daemon what it is to try.
package main

import (
	"bytes"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vifproxy/names/wire"
	"vifproxy/tinyproxy"
)

// answered is the address of every name.
var answered = netip.MustParseAddr("93.184.216.34")

var reports = wire.NewEncoder[wire.Report](os.NewFile(3, "daemon"))

func say(all ...wire.Report) {
	for _, r := range all {
		if reports.Encode(r) != nil {
			os.Exit(0)
		}
	}
}

// raw says what no encoder says.
func raw(text string) { _, _ = syscall.Write(3, []byte(text)) }

func main() {
	say(wire.Report{Ready: true})
	orders := wire.NewDecoder[wire.Order](os.NewFile(3, "daemon"))
	gate := wire.Gate{}
	for {
		o, err := orders.Decode()
		if err != nil {
			return
		}
		switch {
		case o.Settings != nil:
			misbehave(o.Settings.Domain)
		case o.Open != nil && o.Open.Closed: // a moment ago: nothing is answered
		case o.Open != nil:
			gate = *o.Open
			say(wire.Report{Opened: gate.ID})
			for i, name := range gate.Lines { // to be pinned, or to be judged
				if addr, err := netip.ParseAddr(name); err == nil {
					say(wire.Report{Pin: &wire.Pin{ID: gate.ID<<16 + int64(i), UID: gate.UID, Addrs: []netip.Addr{addr}, Seconds: 90}})
				} else {
					say(wire.Report{Judge: &wire.Doubt{ID: gate.ID<<16 + int64(i), Gate: gate.ID, Name: name}})
				}
			}
		case o.Close != 0:
			say(wire.Report{Closed: o.Close})
		case o.Ask != nil:
			answer(o.Ask, gate)
		case o.Judged != nil:
			why := map[bool]string{true: "permitted", false: "not permitted"}[o.Judged.Permits]
			if o.Judged.Failed {
				why = "nobody knows"
			}
			say(wire.Report{Event: &wire.Event{UID: gate.UID, Failure: wire.ServerError, Name: "judged", Count: 1, Why: why}})
		case o.Pinned != nil:
			say(wire.Report{Event: &wire.Event{UID: gate.UID, Failure: wire.ServerError, Name: "pinned", Count: 1,
				Why: map[bool]string{true: "pinned", false: "not pinned"}[o.Pinned.OK]}})
		}
	}
}

// misbehave does what a domain says.
func misbehave(how string) {
	switch how {
	case "panics":
		panic("a name of " + how)
	case "exits":
		os.Exit(3)
	case "stops":
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP) // refused; tgkill is not
		_ = unix.Tgkill(os.Getpid(), os.Getpid(), unix.SIGSTOP)
	case "deaf": // neither reads nor answers
		for {
			time.Sleep(time.Hour)
		}
	case "floods":
		for {
			say(wire.Report{Event: &wire.Event{UID: 1, Failure: wire.Owned, Count: 1}})
		}
	case "talks": // to people
		for {
			_, _ = syscall.Write(2, bytes.Repeat([]byte("much ado about nothing\n"), 1000))
		}
	case "rambles":
		raw("good morning\n")
	case "rambles forever":
		for {
			raw(strings.Repeat("x", 1<<15))
		}
	}
}

// answer answers a question of the daemon, or does what it says.
func answer(q *wire.Question, gate wire.Gate) {
	failed := func(why string) {
		say(wire.Report{Answer: &wire.Answer{ID: q.ID, Failure: wire.ServerError, Why: why}})
	}
	pin := func(uid uint32, addr string) {
		say(wire.Report{Pin: &wire.Pin{ID: 1, UID: uid, Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Seconds: 90}})
	}
	what, try := strings.CutPrefix(q.Name, "try ")
	says, say_ := strings.CutPrefix(q.Name, "say ")
	switch {
	case q.UID == tinyproxy.NamesUID:
		failed("nobody")
	case try:
		failed(attempt(what))
	case !say_:
		say(wire.Report{Answer: &wire.Answer{ID: q.ID, Addrs: []netip.Addr{answered}, TTL: 1}})
	case says == "pin private":
		pin(gate.UID, "192.168.1.1")
	case says == "pin stranger":
		pin(gate.UID+1, "93.184.216.34")
	case says == "pin daemon":
		pin(0, "93.184.216.34")
	case says == "unpin stranger":
		say(wire.Report{Unpin: &wire.Pin{UID: gate.UID + 1, Addrs: []netip.Addr{answered}}})
	case says == "opened":
		say(wire.Report{Opened: 1 << 40})
	case says == "closed":
		say(wire.Report{Closed: gate.ID})
	case says == "ready":
		say(wire.Report{Ready: true})
	case says == "answer":
		say(wire.Report{Answer: &wire.Answer{ID: 1 << 40, Addrs: []netip.Addr{answered}}})
	case says == "two":
		raw(`{"Opened":1,"Closed":1}` + "\n")
	case says == "judge":
		for {
			say(wire.Report{Judge: &wire.Doubt{ID: 1, Gate: gate.ID, Name: "bank.example"}})
		}
	case says == "event":
		say(wire.Report{Event: &wire.Event{UID: gate.UID, Failure: wire.Owned, Name: "evil.example", Type: "TXT", Count: 7}},
			wire.Report{Answer: &wire.Answer{ID: q.ID, Addrs: []netip.Addr{answered}}})
	case says == "nothing":
	}
}

// attempt tries what a resolver never does, and returns what came of it.
func attempt(what string) string {
	at := func(addr string) unix.Sockaddr {
		a := netip.MustParseAddrPort(addr)
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	var fd int
	var err error
	kind, rest, _ := strings.Cut(what, " ")
	switch kind {
	case "open":
		fd, err = unix.Open(rest, unix.O_RDONLY, 0)
	case "write":
		fd, err = unix.Open(rest, unix.O_WRONLY|unix.O_CREAT, 0o600)
	case "list":
		fd, err = unix.Open(rest, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	case "execute":
		err = unix.Exec(rest, []string{rest}, nil)
	case "connect": // by TCP
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err == nil {
			err = unix.Connect(fd, at(rest))
		}
	case "listen":
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err == nil {
			err = unix.Listen(fd, 1)
		}
	case "bind":
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err == nil {
			err = unix.Bind(fd, at(rest))
		}
	case "unix":
		fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	case "netlink":
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)
	case "packet":
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	case "raw":
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP)
	case "device": // takes the socket for questions off the loopback
		err = unix.BindToDevice(4, rest)
	case "unsettle": // the socket for questions
		unsettle(rest)
	case "fork":
		_, _, errno := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0)
		if err = errno; errno == 0 {
			err = nil
		}
	case "signal": // our parent
		err = unix.Kill(os.Getppid(), unix.SIGCONT)
	case "uid":
		_, _, errno := unix.RawSyscall(unix.SYS_SETUID, 0, 0, 0)
		if err = errno; errno == 0 {
			err = nil
		}
	case "executable": // memory
		_, err = unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	case "descriptors":
		open := ""
		for fd := range 64 {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				var st unix.Stat_t
				_ = unix.Fstat(fd, &st)
				open += " " + string("?pc?d?b?-?l?s???"[st.Mode>>12&15])
			}
		}
		return open
	}
	_ = fd // the process does not need it
	if err == nil {
		return "done"
	}
	return err.Error()
}

// unsettle leaves the socket for questions otherwise than it was.
func unsettle(how string) {
	nowhere := &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}
	switch how {
	case "connected":
		_ = unix.Connect(4, nowhere)
	case "disconnected":
		_ = unix.Connect(4, nowhere)
		none := unix.RawSockaddrAny{} // AF_UNSPEC
		_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, 4, uintptr(unsafe.Pointer(&none)), unix.SizeofSockaddrAny)
	case "errors":
		_ = unix.SetsockoptInt(4, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	case "reused":
		_ = unix.SetsockoptInt(4, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	case "small":
		_ = unix.SetsockoptInt(4, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
	case "shut":
		_ = unix.Shutdown(4, unix.SHUT_RDWR)
	case "silent":
		_ = unix.Shutdown(4, unix.SHUT_WR)
	}
}
