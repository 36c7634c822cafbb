package main

import (
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/lab"
)

var nameRequests = flag.Int("names.requests", 300, "how many requests TestAddressesThatChange makes with each firewall")

// lostQuestion is after what time the C library of a proxy asks again (RES_TIMEOUT in resolv.h of glibc 2.36). A page that takes as long
// has waited for a name server that does not answer.
const lostQuestion = 5 * time.Second

// A host that has another address each second, and says so, is reached at each. One that says that its address is true for no time at
// all has its name servers asked once a second all the same, in both families, and not for each request.
func TestAddressesThatChange(t *testing.T) {
	onBoth(t, func(s *site) {
		const many = 200 // then they come again
		pool := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 113, byte(20 + i%many)}) }
		begun := time.Now()
		s.HostFor(1, "cdn.example", func() []netip.Addr { return []netip.Addr{pool(int(time.Since(begun) / time.Second))} })
		var asked atomic.Int64
		s.HostFor(0, "zero.example", func() []netip.Addr { asked.Add(1); return []netip.Addr{pool(many)} })
		s.rules("work.10.137.0.11", `^cdn\.example$`, `^zero\.example$`)
		s.attach("work", "10.137.0.11")
		s.start()
		s.opens("work", "http://cdn.example/")
		for i, moved := 0, 0; i < *nameRequests || moved < 2; i++ {
			scheme := "http"
			if i%8 == 7 {
				scheme = "https"
			}
			if err := s.page("work", scheme+"://cdn.example/"); err != nil {
				s.Errorf("request %d, %v after the first: %v", i+1, time.Since(begun), err)
			}
			if err := s.page("work", scheme+"://zero.example/"); err != nil {
				s.Errorf("request %d with TTL 0: %v", i+1, err)
			}
			moved = int(time.Since(begun) / time.Second)
		}
		reached := 0
		for i := range many {
			n, err := s.Reached(pool(i).String(), 0)
			s.must(err)
			if n > 0 {
				reached++
			}
		}
		if reached < 2 {
			s.Errorf("%d addresses were reached", reached)
		}
		if n, most := asked.Load(), 2*int64(time.Since(begun)/time.Second+2); n > most {
			s.Errorf("name servers were asked %d times for an answer of TTL 0, want %d at most", n, most)
		}
		s.Logf("%d addresses in %v, %d questions for one with TTL 0", reached, time.Since(begun).Round(time.Second), asked.Load())
		s.stop()
	})
}

// Name servers that fail, and ways that lead nowhere, cost no page the time of a question that is lost. Nobody remembers any answer of the
// lab's name servers, so each page asks them.
func TestBadNameServers(t *testing.T) {
	onBoth(t, func(s *site) {
		change := s.ownEtc()
		s.rules("work.10.137.0.11", `^bank[0-9]*\.example$`)
		s.attach("work", "10.137.0.11")
		s.start()
		s.opens("work", "http://bank.example/")
		answers := func(first, second lab.Manner) {
			s.Helper()
			s.must(s.Answer(first, lab.NameServers[0]))
			s.must(s.Answer(second, lab.NameServers[1]))
		}
		host := func(i int) string { return fmt.Sprintf("bank%d.example", i) }
		for what, fails := range map[string]func(){
			"nothing fails":           func() {},
			"the first is silent":     func() { answers(lab.Manner{Silent: true}, lab.Manner{}) },
			"the first is dead":       func() { answers(lab.Manner{Dead: true}, lab.Manner{}) },
			"the first takes seconds": func() { answers(lab.Manner{Late: 7 * time.Second}, lab.Manner{}) },
			"the second is silent":    func() { answers(lab.Manner{}, lab.Manner{Silent: true}) },
			"both are silent to AAAA": func() { answers(lab.Manner{NoIPv6: true}, lab.Manner{NoIPv6: true}) },
			"one of two is left":      func() { change(`echo nameserver 10.139.1.2 >/etc/resolv.conf`) },
			"IPv6 leads nowhere": func() {
				s.inFirewall("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0")
				s.inFirewall("ip", "-6", "addr", "add", "2001:db8:5::2/64", "dev", "eth0", "nodad")
				s.inFirewall("ip", "-6", "neigh", "add", "2001:db8:5::1", "lladdr", "02:00:00:00:00:01", "dev", "eth0")
				s.inFirewall("ip", "-6", "route", "add", "default", "via", "2001:db8:5::1")
				for i := range 10 {
					s.Host(host(i), netip.MustParseAddr("2001:db8:6::1"), netip.AddrFrom4([4]byte{198, 51, 100, byte(200 + i)}))
				}
			},
			"resolv.conf is a link": func() {
				change(`mkdir -p $DIR/resolve; cp /etc/resolv.conf $DIR/resolve/stub; ln -s $DIR/resolve/stub /etc/r; mv -T /etc/r /etc/resolv.conf`)
			},
		} {
			fails()
			s.opens("work", "http://bank.example/")
			var took []time.Duration
			for i := range 10 {
				began := time.Now()
				if err := s.page("work", "http://"+host(i)+"/"); err != nil {
					s.Errorf("%s: page %d: %v, after %v", what, i+1, err, time.Since(began))
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			s.Logf("%s: half of the pages took at most %v", what, took[len(took)/2])
			if took[7] > lostQuestion { // two may be late, if the machine stands still
				s.Errorf("%s: pages took %v", what, took)
			}
			answers(lab.Manner{}, lab.Manner{})
		}
		s.stop()
	})
}

// When the resolver dies, the next one answers the questions that wait.
func TestNoQuestionIsLost(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", `^bank[0-9]*\.example$`)
		s.attach("work", "10.137.0.11")
		s.start()
		s.opens("work", "http://bank.example/")
		var took []time.Duration
		late := 0 // some pages are, if the machine stands still
		for i := range 12 {
			pid := s.resolver()
			page := fmt.Sprintf("http://bank%d.example/", i)
			for proven := time.Now().Add(time.Second); time.Now().Before(proven); { // the one after a resolver that has hardly lived is not at once there
				s.opens("work", page)
				time.Sleep(50 * time.Millisecond) // the machine is for others too
			}
			s.must(unix.Kill(pid, unix.SIGKILL))
			began := time.Now()
			if err := s.page("work", page); err != nil {
				s.Errorf("%d: %v, after %v", i+1, err, time.Since(began))
			}
			took = append(took, time.Since(began).Round(time.Millisecond))
			if took[i] > lostQuestion {
				late++
			}
		}
		if late > 2 {
			s.Errorf("pages took %v", took)
		}
		s.Logf("a page from the death of the resolver on took %v", took)
		s.stop()
	})
}
