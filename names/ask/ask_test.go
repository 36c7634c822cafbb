package ask_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/internal/await"
	"vifproxy/names/ask"
	"vifproxy/names/ask/asktest"
)

const (
	name = "bank.example."
	here = "192.0.2.1"
	typA = dnsmessage.TypeA
)

// right answers as a good server.
func right(q asktest.Query) { q.Answer(asktest.Address(q.Name, here, 60)) }

// dead says nothing.
func dead(asktest.Query) {}

// asking returns a share that asks servers which do these things.
func asking(t testing.TB, serve ...func(asktest.Query)) (*ask.Asker, *ask.Share, []*asktest.Server) {
	t.Helper()
	var config ask.Config
	var all []*asktest.Server
	for _, f := range serve {
		s := asktest.Start(t, "127.0.0.1", f)
		all = append(all, s)
		config.Servers = append(config.Servers, s.Addr)
	}
	a := ask.New()
	a.Configure(config)
	return a, a.Share(), all
}

// An AppVM's request has addresses whatever the server does.
func TestAnswers(t *testing.T) {
	many := func(q asktest.Query) {
		var all []dnsmessage.Resource
		for i := range 100 {
			all = append(all, asktest.Address(q.Name, fmt.Sprintf("192.0.2.%d", i), 60))
		}
		q.Answer(all...)
	}
	hundred := func() string {
		var all []string
		for i := range ask.AddrsMax {
			all = append(all, fmt.Sprintf("192.0.2.%d", i))
		}
		return fmt.Sprint(all)
	}()
	only := fmt.Sprintf("[%s]", here)
	chain := func(names ...string) (all []dnsmessage.Resource) {
		for i := range names[1:] {
			all = append(all, asktest.Alias(names[i], names[i+1], 50))
		}
		return all
	}
	for what, c := range map[string]struct {
		serve func(asktest.Query)
		want  string // addresses, or the end of an error
		ttl   time.Duration
	}{
		"an answer":       {right, only, time.Minute},
		"in capitals":     {func(q asktest.Query) { q.Answer(asktest.Address("BANK.Example.", here, 60)) }, only, time.Minute},
		"TTL 0":           {func(q asktest.Query) { q.Answer(asktest.Address(name, here, 0)) }, only, 0},
		"TTL below 0":     {func(q asktest.Query) { q.Answer(asktest.Address(name, here, 1<<31)) }, only, 0},
		"TTL of years":    {func(q asktest.Query) { q.Answer(asktest.Address(name, here, 1<<31-1)) }, only, 24 * time.Hour},
		"twice the same":  {func(q asktest.Query) { q.Answer(asktest.Address(name, here, 60), asktest.Address(name, here, 9)) }, only, time.Minute},
		"100 addresses":   {many, hundred, time.Minute},
		"another name":    {func(q asktest.Query) { q.Answer(asktest.Address("evil.example.", here, 60)) }, "[]", 0},
		"another type":    {func(q asktest.Query) { q.Answer(asktest.Address(name, "2001:db8::1", 60)) }, "[]", 0},
		"no such name":    {func(q asktest.Query) { q.None(dnsmessage.RCodeNameError, 30) }, "none", 30 * time.Second},
		"none, no SOA":    {func(q asktest.Query) { q.Fail(dnsmessage.RCodeNameError) }, "none", 0},
		"no such records": {func(q asktest.Query) { q.None(dnsmessage.RCodeSuccess, 30) }, "[]", 30 * time.Second},
		"an alias":        {func(q asktest.Query) { q.Answer(append(chain(name, "a.b."), asktest.Address("a.b.", here, 60))...) }, only, 50 * time.Second},
		"aliases, shuffled": {func(q asktest.Query) {
			q.Answer(append([]dnsmessage.Resource{asktest.Address("c.d.", here, 60)}, append(chain("a.b.", "c.d."), chain(name, "a.b.")...)...)...)
		}, only, 50 * time.Second},
		"an alias alone": {func(q asktest.Query) {
			if q.Name == name {
				q.Answer(chain(name, "a.b.", "c.d.")...)
			} else {
				q.Answer(asktest.Address("c.d.", here, 60))
			}
		}, only, 50 * time.Second},
		"an alias of no name": {func(q asktest.Query) {
			m := q.Message(chain(name, "a.b.")...)
			m.RCode = dnsmessage.RCodeNameError
			q.Send(m)
		}, "none", 0},
		"an alias of what is no host": {func(q asktest.Query) { q.Answer(chain(name, "a b.")...) }, "[]", 50 * time.Second},
		"an alias of itself":          {func(q asktest.Query) { q.Answer(chain(name, name)...) }, "aliases (CNAME) of the name do not end", 0},
		"aliases in a circle":         {func(q asktest.Query) { q.Answer(chain(name, "a.b.", "c.d.", name)...) }, "aliases (CNAME) of the name do not end", 0},
		"aliases without end":         {func(q asktest.Query) { q.Answer(asktest.Alias(q.Name, "a"+q.Name, 60)) }, "aliases (CNAME) of the name do not end", 0},
		"wrong ids first": {func(q asktest.Query) {
			m := q.Message(asktest.Address(q.Name, "203.0.113.66", 60))
			for range 50 {
				m.ID++
				q.Send(m)
			}
			right(q)
		}, only, time.Minute},
		"all ids": {func(q asktest.Query) {
			if q.N > 0 {
				right(q)
				return
			}
			m := q.Message(asktest.Address(q.Name, "203.0.113.66", 60)) // from one who knows the port, and not the number
			for range 200 {
				m.ID++
				q.Send(m)
			}
			m.ID = q.ID
			q.Send(m)
		}, only, time.Minute},
		"other questions first": {func(q asktest.Query) {
			m := q.Message(asktest.Address(q.Name, "203.0.113.66", 60))
			m.Response = false
			q.Send(m)
			m.Response = true
			for _, question := range []dnsmessage.Question{
				{Name: dnsmessage.MustNewName("evil.example."), Type: q.Type, Class: dnsmessage.ClassINET},
				{Name: dnsmessage.MustNewName("ban\u212a.example."), Type: q.Type, Class: dnsmessage.ClassINET}, // Unicode's other k
				{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET},
				{Name: dnsmessage.MustNewName(name), Type: q.Type, Class: dnsmessage.ClassCHAOS},
			} {
				m.Questions = []dnsmessage.Question{question}
				q.Send(m)
			}
			m.Questions = append(m.Questions, q.Message().Questions[0])
			q.Send(m)
			m.Questions = nil
			q.Send(m)
			right(q)
		}, only, time.Minute},
		"another port first": {func(q asktest.Query) {
			forger, err := net.Dial("udp", q.From.String())
			if err != nil {
				panic(err)
			}
			defer forger.Close()
			forged := q // by one who knows the number
			forged.Reply = func(text []byte) { forger.Write(text) }
			forged.Answer(asktest.Address(q.Name, "203.0.113.66", 60))
			right(q)
		}, only, time.Minute},
		"garbage first": {func(q asktest.Query) {
			m := q.Message(asktest.Address(q.Name, "203.0.113.66", 60))
			text, _ := m.Pack()
			for i := range text {
				q.Reply(text[:i])
			}
			right(q)
		}, only, time.Minute},
		"no EDNS": {func(q asktest.Query) {
			if m := q.Message(); q.EDNS { // as servers from before 1999 do
				m.RCode, m.Questions = dnsmessage.RCodeFormatError, nil
				q.Send(m)
			} else {
				many(q)
			}
		}, hundred, time.Minute},
		"another version of EDNS": {func(q asktest.Query) {
			if m := q.Message(); q.EDNS {
				var h dnsmessage.ResourceHeader
				h.SetEDNS0(1232, 16, false)
				m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
				q.Send(m)
			} else {
				right(q)
			}
		}, only, time.Minute},
		"silent to EDNS": {func(q asktest.Query) {
			if !q.EDNS {
				right(q)
			}
		}, only, time.Minute},
		"the first packet is lost": {func(q asktest.Query) {
			if q.N > 0 {
				right(q)
			}
		}, only, time.Minute},
		"closed by TCP": {func(q asktest.Query) {
			if !q.TCP {
				many(q)
			}
		}, hundred, time.Minute},
		"silent by TCP": {func(q asktest.Query) {
			if q.TCP {
				q.Hang()
			} else if m := q.Message(asktest.Address(q.Name, here, 60)); true {
				m.Truncated = true
				q.Send(m)
			}
		}, only, time.Minute},
		"truncated, with nothing": {func(q asktest.Query) {
			if m := q.Message(); !q.TCP {
				m.Truncated = true
				q.Send(m)
			}
		}, "its answer is too long for UDP, and by TCP: EOF", 0},
		"truncated, with nothing, and silent by TCP": {func(q asktest.Query) {
			if q.TCP {
				q.Hang()
			} else if m := q.Message(); true {
				m.Truncated = true
				q.Send(m)
			}
		}, "its answer is too long for UDP, and by TCP: no answer", 0},
		"truncated in a record": {func(q asktest.Query) {
			if q.TCP {
				right(q)
				return
			}
			m := q.Message(asktest.Address(q.Name, "192.0.2.2", 60))
			m.Truncated = true
			text, _ := m.Pack()
			q.Reply(text[:len(text)-2])
		}, only, time.Minute},
		"too long for UDP": {func(q asktest.Query) {
			var all []dnsmessage.Resource
			for range 1000 {
				all = append(all, asktest.Address("other.example.", here, 60))
			}
			q.Send(q.Message(append(all, asktest.Address(q.Name, here, 60))...))
		}, only, time.Minute},
		"a referral": {func(q asktest.Query) {
			m := q.Message()
			m.RecursionAvailable = false
			q.Send(m)
		}, "it does not ask other servers (no recursion)", 0},
		"a failure": {func(q asktest.Query) { q.Fail(dnsmessage.RCodeServerFailure) }, " answers ServerFailure", 0},
		"a refusal": {func(q asktest.Query) { q.Fail(dnsmessage.RCodeRefused) }, " answers Refused", 0},
		"garbage only": {func(q asktest.Query) {
			m := q.Message(asktest.Address(q.Name, "203.0.113.66", 60))
			text, _ := m.Pack()
			q.Reply(text[:len(text)-1])
		}, ": its answer is malformed", 0},
		"silence": {dead, " does not answer", 0},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			_, share, _ := asking(t, c.serve)
			answer, err := share.Ask(t.Context(), strings.TrimSuffix(name, "."), typA)
			got := fmt.Sprint(answer.Addrs)
			if answer.NoSuchName {
				got = "none"
			}
			if err != nil {
				got = err.Error()
			}
			if !strings.HasSuffix(got, c.want) || answer.TTL != c.ttl {
				t.Errorf("%s, TTL %v, want %s, TTL %v", got, answer.TTL, c.want, c.ttl)
			}
			var e *ask.Error
			if err != nil && (!errors.As(err, &e) || (e.Reason == ask.Silent) != (what == "silence")) {
				t.Errorf("the error is %#v", err)
			}
		})
	}
}

// An address of IPv4 in one of IPv6 would be connected to by IPv4, which nobody has looked at.
func TestMappedAddress(t *testing.T) {
	t.Parallel()
	_, share, _ := asking(t, func(q asktest.Query) {
		q.Answer(asktest.Address(q.Name, "::ffff:10.0.0.1", 60), asktest.Address(q.Name, "2001:db8::1", 60))
	})
	answer, err := share.Ask(t.Context(), name, dnsmessage.TypeAAAA)
	if err != nil || fmt.Sprint(answer.Addrs) != "[2001:db8::1]" {
		t.Error(answer, err)
	}
}

// A server that does not listen, or that no route leads to, is told apart from one that is silent, and costs no time.
func TestNobodyThere(t *testing.T) {
	t.Parallel()
	a := ask.New()
	if _, err := a.Share().Ask(t.Context(), name, typA); err == nil || err.Error() != "no name server is configured" {
		t.Error(err)
	}
	good := asktest.Start(t, "127.0.0.1", right)
	closed := asktest.Closed(t)
	a.Configure(ask.Config{Servers: []netip.AddrPort{closed}})
	if _, err := a.Share().Ask(t.Context(), name, typA); err == nil || !strings.HasSuffix(err.Error(), ": connection refused") {
		t.Error(err)
	}
	if !a.Silent() {
		t.Error("it does not know that its only server is silent")
	}
	a.Configure(ask.Config{Servers: []netip.AddrPort{closed, good.Addr}})
	if a.Silent() {
		t.Error("it takes a new server for a silent one")
	}
	if _, err := a.Share().Ask(t.Context(), name, typA); err != nil {
		t.Error(err)
	}
}

// A first server that does not answer costs a wait once. When it answers again, it is the first again.
func TestFirstServerIsDead(t *testing.T) {
	t.Parallel()
	var alive = make(chan struct{})
	_, share, servers := asking(t, func(q asktest.Query) {
		select {
		case <-alive:
			q.Answer(asktest.Address(q.Name, "192.0.2.77", 60))
		default:
		}
	}, right)
	if _, err := share.Ask(t.Context(), name, typA); err != nil {
		t.Fatal(err)
	}
	// From then on the second is asked at the same time, and after 2 s first.
	began := time.Now()
	for i := 0; time.Since(began) < 3*time.Second; i++ {
		if _, err := share.Ask(t.Context(), name, typA); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // it is about time
	}
	before := servers[0].Asked()
	for range 5 {
		if _, err := share.Ask(t.Context(), name, typA); err != nil {
			t.Fatal(err)
		}
	}
	if servers[0].Asked() > before+1 {
		t.Errorf("a silent server was asked %d times more", servers[0].Asked()-before)
	}
	close(alive)
	await.Until(t, "the first server is asked first again", func() bool {
		answer, err := share.Ask(t.Context(), name, typA)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // it is about time
		return answer.Addrs[0].String() == "192.0.2.77"
	})
}

// The next server is asked where the first one fails, and the failure of one is not the failure of all.
func TestNextServer(t *testing.T) {
	for what, first := range map[string]func(asktest.Query){
		"fails":     func(q asktest.Query) { q.Fail(dnsmessage.RCodeServerFailure) },
		"refuses":   func(q asktest.Query) { q.Fail(dnsmessage.RCodeRefused) },
		"refers":    func(q asktest.Query) { m := q.Message(); m.RecursionAvailable = false; q.Send(m) },
		"is silent": dead,
		"loops":     func(q asktest.Query) { q.Answer(asktest.Alias(q.Name, q.Name, 60)) },
		"is slow":   func(q asktest.Query) { time.Sleep(time.Second); right(q) },
		"says nothing by TCP": func(q asktest.Query) {
			if q.TCP {
				q.Hang()
			} else {
				m := q.Message()
				m.Truncated = true
				q.Send(m)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			_, share, _ := asking(t, first, func(q asktest.Query) { q.Answer(asktest.Address(q.Name, "192.0.2.2", 60)) })
			answer, err := share.Ask(t.Context(), name, typA)
			if err != nil || len(answer.Addrs) != 1 || answer.Addrs[0].String() != "192.0.2.2" {
				t.Errorf("%v, %v", answer, err)
			}
		})
	}
}

// If one server says that it cannot, silent ones are not waited for to the end, and both are told.
func TestOneFailsOneIsSilent(t *testing.T) {
	t.Parallel()
	_, share, servers := asking(t, dead, func(q asktest.Query) { q.Fail(dnsmessage.RCodeServerFailure) })
	_, err := share.Ask(t.Context(), name, typA)
	var e *ask.Error
	if !errors.As(err, &e) || e.Reason != ask.ServerError || len(e.Faults) != 2 {
		t.Fatal(err)
	}
	for _, fault := range e.Faults {
		if (fault.Server == servers[0].Addr) != (fault.RCode == 0) {
			t.Errorf("%v", fault)
		}
	}
}

// Names are completed as resolv.conf says.
func TestSearch(t *testing.T) {
	t.Parallel()
	there := map[string]string{
		"nas.home.example.":      "192.0.2.1",
		"nas.":                   "192.0.2.2",
		"a.b.corp.example.":      "192.0.2.3",
		"a.b.":                   "",
		"printer.":               "192.0.2.4",
		"bank.example.":          "192.0.2.5",
		"broken.":                "192.0.2.6",
		"empty.home.example.":    "",
		"empty.":                 "192.0.2.7",
		"under_score.x.example.": "192.0.2.8",
	}
	asker, share, servers := asking(t, func(q asktest.Query) {
		switch addr, known := there[q.Name]; {
		case q.Name == "broken.home.example.":
			q.Fail(dnsmessage.RCodeServerFailure)
		case !known:
			q.None(dnsmessage.RCodeNameError, 60)
		case addr == "":
			q.None(dnsmessage.RCodeSuccess, 60)
		default:
			q.Answer(asktest.Address(q.Name, addr, 60))
		}
	})
	for _, c := range []struct {
		dots       int
		name, want string
		questions  int
	}{
		{1, "nas", "[192.0.2.1]", 1},
		{1, "NAS", "[192.0.2.1]", 1},
		{1, "nas.", "[192.0.2.2]", 1},
		{1, "printer", "[192.0.2.4]", 3},
		{1, "bank.example", "[192.0.2.5]", 1},
		{2, "bank.example", "[192.0.2.5]", 3},
		{2, "a.b", "[192.0.2.3]", 2},
		{1, "a.b", "[]", 1},
		{1, "nobody", "none", 3},
		{1, "broken", "[192.0.2.6]", 3},
		{1, "empty", "[]", 1},
		{1, "under_score.x.example", "[192.0.2.8]", 1},
		{1, "a b", "none", 0},
		{1, "a\x00b", "none", 0},
		{1, "-x", "none", 0},
		{1, "a..b", "none", 0},
		{1, "", "none", 0},
		{1, ".", "none", 0},
		{1, strings.Repeat("x", 64), "none", 0},
		{1, strings.Repeat("x.", 127) + "example", "none", 0},
		{1, strings.Repeat("x.", 120) + "example", "none", 1},
	} {
		asker.Configure(ask.Config{Servers: []netip.AddrPort{servers[0].Addr}, Search: []string{"home.example", "corp.example.", ".", "a b"}, Dots: c.dots})
		before := servers[0].Asked()
		answer, err := share.Ask(t.Context(), c.name, typA)
		got := fmt.Sprint(answer.Addrs)
		if answer.NoSuchName {
			got = "none"
		}
		if questions := servers[0].Asked() - before; err != nil || got != c.want || questions != c.questions {
			t.Errorf("%q with ndots:%d: %s, %v after %d questions, want %s after %d", c.name, c.dots, got, err, questions, c.want, c.questions)
		}
	}
}

// Each question comes from a port of its own, and has a number of its own.
func TestPortsAndNumbers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var ports, ids []uint16
	_, share, _ := asking(t, func(q asktest.Query) {
		mu.Lock()
		defer mu.Unlock()
		ports, ids = append(ports, q.From.Port()), append(ids, q.ID)
		right(q)
	})
	for range 200 {
		if _, err := share.Ask(t.Context(), name, typA); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(ports)
	slices.Sort(ids)
	if n := len(slices.Compact(ports)); n < 190 {
		t.Errorf("200 questions came from %d ports", n)
	}
	if n := len(slices.Compact(ids)); n < 190 {
		t.Errorf("200 questions had %d numbers", n)
	}
}

// The end of a context ends the question.
func TestContext(t *testing.T) {
	t.Parallel()
	_, share, _ := asking(t, dead)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := share.Ask(ctx, name, typA); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// If other servers are to be asked, they are asked what is under way.
func TestOtherServersMeanwhile(t *testing.T) {
	t.Parallel()
	asker, share, silent := asking(t, dead)
	good := asktest.Start(t, "127.0.0.1", func(q asktest.Query) {
		if q.Name == "nas.home.example." {
			right(q)
		} else {
			q.None(dnsmessage.RCodeNameError, 60)
		}
	})
	go func() {
		for silent[0].Asked() == 0 {
			time.Sleep(time.Millisecond)
		}
		asker.Configure(ask.Config{Servers: []netip.AddrPort{good.Addr}, Search: []string{"home.example"}, Dots: 1})
	}()
	answer, err := share.Ask(t.Context(), "nas", typA)
	if err != nil || len(answer.Addrs) != 1 {
		t.Errorf("%v, %v; the server before was asked %d times", answer, err, silent[0].Asked())
	}
}

// Resolv.conf may have servers of IPv6.
func TestServerOfIPv6(t *testing.T) {
	t.Parallel()
	s := asktest.Start(t, "::1", func(q asktest.Query) { q.Answer(asktest.Address(q.Name, "2001:db8::1", 60)) })
	a := ask.New()
	a.Configure(ask.Config{Servers: []netip.AddrPort{s.Addr}})
	answer, err := a.Share().Ask(t.Context(), name, dnsmessage.TypeAAAA)
	if err != nil || fmt.Sprint(answer.Addrs) != "[2001:db8::1]" {
		t.Errorf("%v, %v", answer, err)
	}
}
