// Hostile plays a tinyproxy that its AppVM owns, for the tests of confinement and fence: it listens as a tinyproxy does, tries
// what such an AppVM would try, prints how each attempt ended, and ends with the words of a tinyproxy that refuses its rules.
// It is told its targets by the lines of the file "rules" beside the configuration that it is given, as a tinyproxy is. They look
// like host names, as all lines do: ^NAME-VALUE$, with the value in hexadecimal digits.
//
// It keeps away from packages net and os, whose files would have the runtime poll, and collects no garbage: after a collection the
// runtime of Go 1.26 sleeps by a timer, for which it makes an epoll instance, and the sandbox has none (bgscavenge in runtime/mgcscavenge.go).
package main

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	debug.SetGCPercent(-1)
	config := os.Args[len(os.Args)-1]
	t := targets{"Own": filepath.Dir(config)}
	t.read(filepath.Join(t["Own"], "rules"), target)
	t.read(config, setting)
	if t["Secret"] == "" {
		unix.Write(1, []byte("no targets\n"))
		unix.Exit(1)
	}
	if err := t.listen(); err != nil {
		unix.Write(1, []byte("listen: "+err.Error()+"\n"))
		unix.Exit(1)
	}
	report := func(what string, err error) {
		result := "done"
		if err != nil {
			result = err.Error()
		}
		unix.Write(1, []byte(what+"\t"+result+"\n"))
	}
	if t["Fleeting"] != "" { // else the first attempt is to end it
		report("permitted", errors.Join(askWhenFenced(t, "fleeting.example"), connect(t["Fleeting"], 80)))
		pinned = time.Now()
	}
	for _, a := range attempts {
		report("attempt\t"+a.name, a.try(t))
	}
	unix.Write(1, []byte("Bad regex in "+t["Own"]+"/rules: line 1 - "+refusal+"\n"))
	unix.Exit(65) // of a tinyproxy that refuses its rules
}

// pinned is when the address Fleeting had been pinned.
var pinned time.Time

// refusal is in the dying words.
const refusal = "^words-of-an-owned-proxy$"

// targets are what the hostile program is told to attack:
//
//	Secret      a file like /rw/config: readable by everybody, were it not for Landlock
//	OtherRules  of another VM's proxy
//	Writable    a directory where everybody may write
//	Unix        a socket where everybody may connect, as a careless daemon's
//	Abstract    an abstract one
//	Control     the daemon's own
//	SameUser    a process of the same user: another generation
//	OtherProxy  a process
//	Daemon      the process that started us
//	Gateway, OtherGateway, AppVM, LAN, World  addresses; somebody listens there at port 80, and at 22 in the world
//	Neighbour   an address that a proxy of another AppVM was told
//	NameServer, OtherNameServer  that of resolv.conf, and another one; the lab's answer for all names below example
//	Fleeting    an address that fleeting.example has, which is listed
//	Pinned      seconds for which that is open to a proxy that has asked once
//	Resolver    address and port at which the other AppVM's proxy asks
//	Barred      another one in the world, behind an interface by which AppVMs may not leave
//
// and what it sees itself:
//
//	Own         the directory with its configuration
//	Listen, Port  where it is to listen
//	Socket      the descriptor by which it does
type targets map[string]string

func (t targets) number(name string) int {
	pid, _ := strconv.Atoi(t[name])
	return pid
}

// read adds what the lines of a file say.
func (t targets) read(path string, parse func(line string) (name, value string)) {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	b := make([]byte, 1<<14)
	n, _ := unix.Read(fd, b)
	for line := range strings.Lines(string(b[:max(n, 0)])) {
		if name, value := parse(strings.TrimSpace(line)); name != "" {
			t[name] = value
		}
	}
}

// target reads a line of the rules.
func target(line string) (name, value string) {
	name, digits, _ := strings.Cut(strings.Trim(line, "^$"), "-")
	b, err := hex.DecodeString(digits)
	if err != nil {
		return "", ""
	}
	return name, string(b)
}

// setting reads a line of the configuration.
func setting(line string) (name, value string) {
	name, value, _ = strings.Cut(line, " ")
	if name != "Port" && name != "Listen" {
		return "", ""
	}
	return name, strings.TrimSpace(value)
}

// listen listens where a tinyproxy would.
func (t targets) listen() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	t["Socket"] = strconv.Itoa(fd)
	if err := t.bindOwn(fd); err != nil {
		return err
	}
	return unix.Listen(fd, 16)
}

// bindOwn binds a socket to where it listens.
func (t targets) bindOwn(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	port, _ := strconv.Atoi(t["Port"])
	return unix.Bind(fd, at(t["Listen"], port))
}

// attempt is one row of the table.
type attempt struct {
	name string
	try  func(targets) error
}
