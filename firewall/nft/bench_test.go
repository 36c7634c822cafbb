package nft

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

// housed is a backend with 250 AppVMs, and so many addresses pinned for each.
func housed(b *testing.B, each int) *Backend {
	EnterNamespace(b)
	backend := open(b, Machines[1])
	_, err := backend.Sync(b.Context(), Housing(250), func() {})
	Must(b, err)
	for i := range uint32(250) {
		if each > 0 {
			Must(b, backend.Pin(b.Context(), numbered(TestConfig.FirstUID+i, 0, each), time.Hour))
		}
	}
	return backend
}

// What pinning costs with 250 AppVMs and as many addresses pinned as the name says:
//
//	pin-N-of-M    N addresses that are new            floor: element, one transaction of one element
//	extend-N-of-M N that are pinned get more time
func BenchmarkPin(b *testing.B) {
	for _, each := range []int{0, 50} {
		for _, n := range []int{1, 10} {
			b.Run(fmt.Sprintf("pin-%d-of-%d", n, 250*each), func(b *testing.B) {
				backend := housed(b, each)
				for i := 0; b.Loop(); i++ {
					uid := TestConfig.FirstUID + uint32(i%250)
					Must(b, backend.Pin(b.Context(), numbered(uid, 1000+i/250*n%400, n), time.Hour))
				}
			})
			b.Run(fmt.Sprintf("extend-%d-of-%d", n, 250*each), func(b *testing.B) {
				backend := housed(b, each)
				Must(b, backend.Pin(b.Context(), numbered(PersonalUID, 0, n), time.Minute))
				for i := 0; b.Loop(); i++ {
					Must(b, backend.Pin(b.Context(), numbered(PersonalUID, 0, n), time.Minute+time.Duration(i)*time.Millisecond))
				}
			})
		}
		b.Run(fmt.Sprintf("foreign-of-%d", 250*each), func(b *testing.B) { // a Sync after another program's change
			backend := housed(b, each)
			other := NewForeigner(b, Machines[1])
			for b.Loop() {
				other.Write(b)
				_, err := backend.Sync(b.Context(), Housing(250), func() {})
				Must(b, err)
			}
		})
	}
	b.Run("element", func(b *testing.B) {
		EnterNamespace(b)
		other := NewForeigner(b, Machines[1])
		for b.Loop() {
			other.Write(b)
		}
	})
}

// What a Sync costs beside pins: an AppVM comes or goes among 250.
func BenchmarkSyncBesidePins(b *testing.B) {
	for _, rate := range []int{0, 1000} {
		b.Run(fmt.Sprintf("%d-a-second", rate), func(b *testing.B) {
			backend := housed(b, 50)
			ns, err := netns.Get()
			Must(b, err)
			defer ns.Close()
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			pins := 0
			if rate > 0 {
				wg.Go(func() {
					runtime.LockOSThread()
					Must(b, netns.Set(ns))
					tick := time.NewTicker(time.Second / time.Duration(rate))
					defer tick.Stop()
					for ; ctx.Err() == nil; pins++ {
						<-tick.C
						if err := backend.Pin(ctx, numbered(TestConfig.FirstUID+uint32(pins%250), 1000+pins/250*3%400, 3), time.Hour); err != nil && ctx.Err() == nil {
							b.Error(err)
						}
					}
				})
			}
			full := Housing(250)
			for i := 0; b.Loop(); i++ {
				want := full
				if i%2 == 0 {
					want = Without(full)
				}
				_, err := backend.Sync(b.Context(), want, func() {})
				Must(b, err)
				b.StopTimer()
				time.Sleep(time.Millisecond)
				b.StartTimer()
			}
			b.ReportMetric(float64(pins)/b.Elapsed().Seconds(), "pins/s-of-its-time")
			cancel()
			wg.Wait()
		})
	}
}

var _ firewall.Pinner = (*Backend)(nil)
