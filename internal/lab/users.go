package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// questionTime is for an answer: glibc asks again after 5 s.
const (
	questionTime  = 5 * time.Second
	questionTries = 5
)

// Question asks a server for the IPv4 addresses of a name, in the firewall VM, with the socket of a uid. It returns the time from the
// question to the answer. No address is an error. If the kernel refuses the question, it asks again from another port, as the C library
// does (glibc 2.36): without zones, connection tracking may still know the port for a question of another uid.
func (l *Lab) Question(uid uint32, server netip.Addr, name string) (addrs []netip.Addr, took time.Duration, err error) {
	full, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, 0, err
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: full, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	text, err := m.Pack()
	if err != nil {
		return nil, 0, err
	}
	question := func() error {
		// A socket belongs to the user by whom its maker opens files (f_cred->fsuid in nft_meta.c); of this thread alone.
		if err := unix.Setfsuid(int(uid)); err != nil {
			return err
		}
		defer unix.Setfsuid(0) //nolint:errcheck // back to what it was
		conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, 53)))
		if err != nil {
			return err
		}
		defer conn.Close()
		answer := make([]byte, 1500)
		began := time.Now()
		if _, err := conn.Write(text); err != nil {
			return err
		}
		_ = conn.SetReadDeadline(began.Add(questionTime))
		n, err := conn.Read(answer)
		took = time.Since(began)
		if err != nil {
			return err
		}
		return m.Unpack(answer[:n])
	}
	for tries := 0; tries == 0 || tries < questionTries && errors.Is(err, unix.EPERM); tries++ {
		err = l.Do(question)
	}
	if err != nil {
		return nil, took, fmt.Errorf("ask %v for %s as %d: %w", server, name, uid, err)
	}
	for _, r := range m.Answers {
		if a, ok := r.Body.(*dnsmessage.AResource); ok {
			addrs = append(addrs, netip.AddrFrom4(a.A))
		}
	}
	if len(addrs) == 0 {
		err = fmt.Errorf("%v says to %d that %s has no address: %v", server, uid, name, m.RCode)
	}
	return addrs, took, err
}

// Processes returns the processes of the firewall VM whose users are in a range, and their users.
func (l *Lab) Processes(first, last uint32) (users map[int]uint32, err error) {
	users = map[int]uint32{}
	err = l.Do(func() error {
		here, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		processes, err := filepath.Glob("/proc/[0-9]*")
		for _, dir := range processes {
			var stat unix.Stat_t
			if unix.Stat(dir, &stat) != nil || stat.Uid < first || stat.Uid > last {
				continue
			}
			if there, err := os.Readlink(dir + "/ns/net"); err == nil && there == here {
				pid, _ := strconv.Atoi(filepath.Base(dir))
				users[pid] = stat.Uid
			}
		}
		return err
	})
	return users, err
}
