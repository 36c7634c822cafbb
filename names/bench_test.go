package names

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"vifproxy/names/wire"
)

// BenchmarkQuestion compares a question through the resolver with the same question to the name server: one that was asked before, and
// one that was not, whose addresses the daemon has to pin first.
func BenchmarkQuestion(b *testing.B) {
	server := serve(b, public)
	m := start(b, wire.Settings{Servers: []netip.Addr{server.addr}})
	b.Run("again", func(b *testing.B) {
		m.open(bank(1))
		p := m.proxy(1)
		text := question(1, "bank.example.", typeA)
		p.send(text)
		for b.Loop() {
			p.send(text)
		}
	})
	b.Run("first", func(b *testing.B) {
		uid := uint32(2)
		m.open(bank(uid))
		p := m.proxy(uid)
		n := 0
		for b.Loop() {
			if n++; n%100 == 0 { // the next AppVM: one may ask 256 questions at once
				b.StopTimer()
				uid++
				m.open(bank(uid))
				p = m.proxy(uid)
				b.StartTimer()
			}
			if addrs, code := p.ask(fmt.Sprintf("n%d.wild.example.", n), typeA); len(addrs) != 1 {
				b.Fatal(code)
			}
		}
	})
	b.Run("direct", func(b *testing.B) {
		conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(server.addr, serverPort)))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		p := &proxy{TB: b, UDPConn: conn}
		n := 0
		for b.Loop() {
			n++
			p.ask(fmt.Sprintf("n%d.wild.example.", n), typeA)
		}
	})
}
