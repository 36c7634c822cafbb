package nft

import (
	"net"
	"testing"
	"time"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

// What the fence costs: a byte there and back on a connection to a public address, of a proxy and of a uid that is not fenced, by turns.
// The fastest of each counts, because everything else on the machine only adds to it; fence-ns is the difference, for one packet.
func BenchmarkFence(b *testing.B) {
	EnterNamespace(b)
	Attach(b, "uplink", Internet, "192.0.2.1", 1).Do(func() error {
		l, err := net.Listen("tcp", Internet+":80")
		Must(b, err)
		b.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					for buf := make([]byte, 1); err == nil; {
						if _, err = c.Read(buf); err == nil {
							_, err = c.Write(buf)
						}
					}
				}()
			}
		}()
		return nil
	})
	_, err := open(b, Machines[1]).Sync(b.Context(), firewall.State{Fence: firewall.Fence{Proxies: []firewall.Proxy{
		{UID: PersonalUID, Openings: []firewall.Opening{OpeningTo("192.168.0.0/16", 0)}, AnyAddress: true}}}}, func() {})
	Must(b, err)
	var conns [2]net.Conn
	fastest := [2]time.Duration{time.Hour, time.Hour}
	for i, uid := range []int{0, PersonalUID} {
		As(b, uid, func() {
			conns[i], err = net.Dial("tcp", Internet+":80")
			Must(b, err)
		})
		defer conns[i].Close()
	}
	buf := []byte("x")
	for b.Loop() {
		for i, c := range conns {
			const times = 50
			begin := time.Now()
			for range times {
				_, err = c.Write(buf)
				Must(b, err)
				_, err = c.Read(buf)
				Must(b, err)
			}
			fastest[i] = min(fastest[i], time.Since(begin)/times)
		}
	}
	b.ReportMetric(float64(fastest[0]), "exchange-ns")
	b.ReportMetric(float64(fastest[1]-fastest[0]), "fence-ns")
}
