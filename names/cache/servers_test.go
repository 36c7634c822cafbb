package cache_test

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/internal/await"
	"vifproxy/names/ask"
	"vifproxy/names/ask/asktest"
	"vifproxy/names/cache"
)

// book returns a Book that asks servers which do these things.
func book(t testing.TB, serve ...func(asktest.Query)) (*cache.Book, []*asktest.Server) {
	var config ask.Config
	var all []*asktest.Server
	for _, f := range serve {
		s := asktest.Start(t, "127.0.0.1", f)
		all = append(all, s)
		config.Servers = append(config.Servers, s.Addr)
	}
	a := ask.New()
	a.Configure(config)
	return cache.New(t.Context(), a.Share(), func() bool { return true }), all
}

func right(q asktest.Query) {
	if q.Type == dnsmessage.TypeA {
		q.Answer(asktest.Address(q.Name, "192.0.2.1", 60))
	} else {
		q.None(dnsmessage.RCodeSuccess, 60)
	}
}

// A server that drops questions for AAAA costs nothing.
func TestSilentAAAA(t *testing.T) {
	b, servers := book(t, func(q asktest.Query) {
		if q.Type == dnsmessage.TypeA {
			right(q)
		}
	})
	began := time.Now()
	for i := range 40 {
		if result, err := b.Look(t.Context(), fmt.Sprintf("host%d.example", i)); err != nil || len(result.Addrs4) != 1 {
			t.Fatal(result, err)
		}
	}
	if took := time.Since(began); took > 5*time.Second { // waiting once takes twice as long
		t.Errorf("40 names took %v, although only AAAA is not answered; the server was asked %d times", took, servers[0].Asked())
	}
}

// A host that has another address each time, with TTL 1: what is told is what the server said last, and it is asked once a second.
func TestAddressChangesEachSecond(t *testing.T) {
	var said atomic.Int32
	b, _ := book(t, func(q asktest.Query) {
		if q.Type == dnsmessage.TypeA {
			q.Answer(asktest.Address(q.Name, netip.AddrFrom4([4]byte{192, 0, 2, byte(said.Add(1))}).String(), 1))
		}
	})
	var looks int
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); looks++ {
		result, err := b.Look(t.Context(), "moving.example")
		if err != nil || len(result.Addrs4) != 1 || result.TTL > time.Second {
			t.Fatal(result, err)
		}
		if told := int32(result.Addrs4[0].As4()[3]); told != said.Load() {
			t.Fatalf("told %d when the server had said %d", told, said.Load())
		}
		time.Sleep(time.Millisecond)
	}
	if n := said.Load(); n < 2 || n > 4 {
		t.Errorf("%d looks in 3 s asked %d times", looks, n)
	}
}

// BenchmarkMiss is a name that has to be asked for, from a server that answers at once; BenchmarkDirect is the same question without a
// Book, and BenchmarkHit one that has an answer.
func BenchmarkMiss(b *testing.B) {
	asker := ask.New()
	s := asktest.Start(b, "127.0.0.1", right)
	asker.Configure(ask.Config{Servers: []netip.AddrPort{s.Addr}})
	var fresh *cache.Book
	for i := 0; b.Loop(); i++ {
		if i%100 == 0 { // as one AppVM may not ask so often
			fresh = cache.New(b.Context(), asker.Share(), func() bool { return true })
		}
		if _, err := fresh.Look(b.Context(), fmt.Sprintf("host%d.example", i)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDirect(b *testing.B) {
	s := asktest.Start(b, "127.0.0.1", right)
	for i := 0; b.Loop(); i++ {
		asktest.Ask(b, s.Addr, fmt.Sprintf("host%d.example.", i), dnsmessage.TypeA)
	}
}

func BenchmarkHit(b *testing.B) {
	known, _ := book(b, right)
	for b.Loop() {
		if _, err := known.Look(b.Context(), "bank.example"); err != nil {
			b.Fatal(err)
		}
	}
}

// Books are not shared, and go on side by side.
func TestManyBooks(t *testing.T) {
	asker := ask.New()
	s := asktest.Start(t, "127.0.0.1", right)
	asker.Configure(ask.Config{Servers: []netip.AddrPort{s.Addr}})
	const many = 6 // all asked at once must have their answers in time, on a busy machine too
	var looking sync.WaitGroup
	for range many {
		b := cache.New(t.Context(), asker.Share(), func() bool { return true })
		for i := range many {
			looking.Go(func() {
				for range 10 {
					if result, err := b.Look(t.Context(), fmt.Sprintf("host%d.example", i)); err != nil || len(result.Addrs4) != 1 {
						t.Error(result, err)
					}
				}
			})
		}
	}
	looking.Wait()
	await.Until(t, "all questions, since nobody has waited for AAAA", func() bool { return s.Asked() >= many*many*2 })
	if n := s.Asked(); n > many*many*2*4 { // once for each name and type, and again if an answer takes 0.5 s; 10 times if it were not kept
		t.Errorf("%d AppVMs with %[1]d names asked %d times", many, n)
	}
}
