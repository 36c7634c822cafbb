package main

import (
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vifproxy/internal/lab"
)

var answersTime = flag.Duration("answers.time", 3*time.Second, "for how long TestWhatNameServersSay has addresses rotate with each firewall")

// A page opens if one of the addresses that a name server says is public, however many there are, and however long they are true. Proxies
// reach no other address. What is answered for one name cuts off nothing that another name leads to.
func TestWhatNameServersSay(t *testing.T) {
	onBoth(t, func(s *site) {
		public := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, byte(4 + i/256), byte(i)}) }
		addrs := func(first, n int) (all []netip.Addr) {
			for i := range n {
				all = append(all, public(first+i))
			}
			return all
		}
		s.rules("work.10.137.0.11", bank, `^echo\.example$`, `^www\.example$`, `^[a-z0-9.]*\.cdn\.example$`)
		s.attach("work", "10.137.0.11")
		s.start()
		s.opens("work", "http://bank.example/")
		pid := s.show()["work"].PID
		tunnel := s.tunnel("work", "echo.example:443")
		s.must(tunnel.SetDeadline(time.Time{}))
		echoes := func(what string) {
			s.Helper()
			back := make([]byte, len(what))
			_, err := fmt.Fprint(tunnel, what)
			s.must(err)
			if _, err := io.ReadFull(tunnel, back); err != nil || string(back) != what {
				s.Fatalf("the tunnel says %q to %q: %v", back, what, err)
			}
		}
		fails := func(page string) {
			s.Helper()
			if r := s.Get("work", page); r.Status < 500 {
				s.Errorf("%s: %d, %v", page, r.Status, r.Err)
			}
		}

		s.Host("many.cdn.example", addrs(0, 500)...) // which go by TCP
		s.opens("work", "http://many.cdn.example/", "https://many.cdn.example/")

		s.Alias("www.example", "a.edge.example")
		s.Alias("a.edge.example", "b.edge.example")
		s.Alias("b.edge.example", "c.edge.example")
		s.Host("c.edge.example", public(1000))
		s.opens("work", "http://www.example/")
		s.refuses("work", "http://a.edge.example/", "http://c.edge.example/")
		s.Alias("circle.cdn.example", "circle.cdn.example")
		fails("http://circle.cdn.example/")
		for i := range 20 {
			s.Alias(fmt.Sprintf("long%d.cdn.example", i), fmt.Sprintf("long%d.cdn.example", i+1))
		}
		fails("http://long0.cdn.example/")
		s.opens("work", "http://long10.cdn.example/")

		inside := []netip.Addr{lab.Gateway, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("169.254.1.1"),
			netip.MustParseAddr("10.9.8.7"), netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("10.137.0.11")}
		s.Host("inside.cdn.example", inside...)
		fails("http://inside.cdn.example/")
		s.Host("both.cdn.example", append(inside, public(1001))...)
		s.opens("work", "http://both.cdn.example/")
		for _, addr := range inside {
			if addr.IsLoopback() { // the lab asks itself there how many have come
				continue
			}
			if n, err := s.Reached(addr.String(), 0); err != nil || n > 0 {
				s.Errorf("%v was reached %d times, %v", addr, n, err)
			}
		}

		// A time with the highest bit set is none (RFC 2181, section 8).
		var moved atomic.Int32
		s.HostFor(1<<31, "moves.cdn.example", func() []netip.Addr { return addrs(1002+int(moved.Load()), 1) })
		s.opens("work", "http://moves.cdn.example/")
		moved.Add(1)
		s.until("it is reached where it has moved", func() error {
			if err := s.page("work", "http://moves.cdn.example/"); err != nil {
				s.Errorf("meanwhile: %v", err)
			}
			n, err := s.Reached(public(1003).String(), 0)
			if n == 0 && err == nil {
				err = fmt.Errorf("not yet")
			}
			return err
		})

		echoes("before")
		const perName = 16 // that one answer to a proxy has
		for i := range 640 / perName {
			name := fmt.Sprintf("pool%d.cdn.example", i)
			s.Host(name, addrs(i*perName, perName)...)
			if err := s.page("work", "http://"+name+"/"); err != nil {
				s.Errorf("%s: %v", name, err)
			}
		}
		echoes("when its address is not pinned any more")
		begun := time.Now()
		s.HostFor(1, "rotates.cdn.example", func() []netip.Addr { return addrs(int(time.Since(begun)/time.Second)%60*perName, perName) })
		for n := 0; time.Since(begun) < *answersTime || n < 10; n++ {
			if err := s.page("work", "http://rotates.cdn.example/"); err != nil {
				s.Errorf("%v after the first: %v", time.Since(begun), err)
			}
			echoes(fmt.Sprint(n))
		}
		s.opens("work", "http://bank.example/", "http://www.example/")
		s.tunnel("work", "echo.example:443")
		if now := s.show()["work"].PID; now != pid {
			s.Errorf("its process was %d, and is %d", pid, now)
		}
		if strings.Contains(s.daemon.log.String(), "somebody has taken it over") {
			s.Error("it counts as owned")
		}
		s.stop()
	})
}
