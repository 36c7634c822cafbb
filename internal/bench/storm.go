package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"vifproxy/internal/lab"
)

// A storm: so many AppVMs come, and as many go but for the last, one every gap.
const (
	stormVMs  = 1000
	stormGap  = 10 * time.Millisecond
	stormPool = 200 // have a rule file
	stormMost = 50  // are connected at a time
)

// storm measures from the last of a thousand attaches and detaches until processes and bindings are exactly those
// of who is connected then.
func (b *bench) storm() (outcome, error) {
	s, err := b.site("storm", func(s *site) error {
		for i := range stormPool {
			if err := s.save(i, openLine); err != nil {
				return err
			}
		}
		if err := s.start(b.ctx, b.Daemon); err != nil {
			return err
		}
		return s.untilRunning(b.ctx, 0)
	})
	if err != nil {
		return outcome{}, err
	}
	o := outcome{unit: "ms"}
	for seed := range uint64(max(1, b.Runs/10)) {
		late, took, err := s.blow(b, seed)
		if err != nil {
			return o, err
		}
		o.figures = append(o.figures, milliseconds(took))
		if late > time.Second {
			o.note("the machine took %v more than %v for the storm", late.Round(time.Second/10), stormVMs*stormGap)
		}
	}
	// With so few runs the median says less than the worst.
	o.figures = []float64{slices.Max(o.figures)}
	o.note("the worst of %d storms", max(1, b.Runs/10))
	left, err := s.leftOver(b)
	o.wrong = append(o.wrong, left...)
	return o, err
}

// gust is a vif of the storm: a link with a route and an address and no AppVM at its other end, since bringing a
// whole one takes too long for a storm.
type gust struct {
	number int // of the rule file
	link   *netlink.Veth
}

func (g gust) String() string { return fmt.Sprintf("%s %v", g.link.Name, addr(g.number)) }

// come brings a vif as Xen does: up, route, address.
func (g gust) come(h *netlink.Handle) error {
	whole := func(a netip.Addr) *net.IPNet { return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)} }
	if err := h.LinkAdd(g.link); err != nil {
		return err
	}
	return errors.Join(h.LinkSetUp(g.link),
		h.RouteAdd(&netlink.Route{LinkIndex: g.link.Index, Dst: whole(addr(g.number)), Scope: netlink.SCOPE_LINK}),
		h.AddrAdd(g.link, &netlink.Addr{IPNet: whole(lab.Gateway)}))
}

// blow makes a storm. It returns by how much it took longer than it should have, and the time after it until
// everything is as it should be.
func (s *site) blow(b *bench, seed uint64) (late, took time.Duration, err error) {
	hands := make(chan *netlink.Handle, 9) // one brings, the others take: the kernel makes them wait for RCU
	for range cap(hands) {
		err := s.Do(func() error {
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err == nil {
				hands <- h
			}
			return err
		})
		if err != nil {
			return 0, 0, err
		}
	}
	bringer := <-hands
	defer bringer.Close()
	defer func() {
		for range cap(hands) - 1 {
			(<-hands).Close()
		}
	}()
	var going errgroup.Group
	random := rand.New(rand.NewPCG(seed, seed))
	free := random.Perm(stormPool)
	var here []gust
	goes := func(i int) {
		g, h := here[i], <-hands
		here, free = slices.Delete(here, i, i+1), append(free, g.number)
		going.Go(func() error {
			defer func() { hands <- h }()
			return h.LinkDel(g.link)
		})
	}
	began := time.Now()
	tick := time.NewTicker(stormGap)
	defer tick.Stop()
	for range stormVMs {
		<-tick.C
		if len(here) == stormMost {
			goes(random.IntN(len(here)))
		}
		s.domid++
		g := gust{free[0], &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("vif%d.0", s.domid), TxQLen: -1},
			PeerName:  fmt.Sprintf("far%d", s.domid),
		}}
		free = free[1:]
		if err := errors.Join(b.ctx.Err(), g.come(bringer)); err != nil {
			return 0, 0, errors.Join(err, going.Wait())
		}
		here = append(here, g)
	}
	err = going.Wait()
	over := time.Now()
	var want []string
	for _, g := range here {
		want = append(want, g.String())
	}
	slices.Sort(want)
	err = errors.Join(err, until(b.ctx, "processes and bindings are those of the connected", 5*time.Millisecond,
		func() (bool, error) {
			got, err := s.bindings()
			if err != nil || !slices.Equal(got, want) {
				return false, err
			}
			proxies, err := s.proxies()
			return len(proxies) == len(want), err
		}))
	took = time.Since(over)
	for len(here) > 0 {
		goes(0)
	}
	return over.Sub(began) - stormVMs*stormGap, took, errors.Join(err, going.Wait())
}

// leftOver looks, when nobody is connected any more, what is there all the same.
func (s *site) leftOver(b *bench) (left []string, err error) {
	if err := s.untilAtRest(b.ctx); err != nil {
		return nil, err
	}
	bindings, err := s.bindings()
	proxies, err2 := s.proxies()
	if len(bindings)+len(proxies) > 0 {
		left = append(left, fmt.Sprintf("left over: %d processes, bindings %v", len(proxies), bindings))
	}
	var err3 error
	for i := range stormPool { // what remains of an AppVM is its log, see package tinyproxy
		entries, err := os.ReadDir(fmt.Sprintf("%s/run/vm%d", s.dir, i))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			err3 = err
		}
		for _, e := range entries {
			if e.Name() != "log" && e.Name() != "log.1" {
				left = append(left, fmt.Sprintf("left over: run/vm%d/%s", i, e.Name()))
			}
		}
	}
	return left, errors.Join(err, err2, err3)
}
