package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"vifproxy/internal/bench/caller"
	"vifproxy/internal/bench/peers"
	"vifproxy/internal/bench/taken"
	"vifproxy/internal/lab"
	"vifproxy/tinyproxy"
)

// namesLine permits as many names as a figure asks for, and knownHost is one of them.
const (
	namesLine = `^n[0-9]*\.example$`
	knownHost = "n0.example"
	awayTime  = 20 * time.Millisecond // of a name server
)

// libraryServer is the name server that the C library of a proxy asks.
var libraryServer = netip.MustParseAddr("127.0.0.1")

// asking returns a site of n AppVMs whose lists have names, and the users of their proxies by process.
func (b *bench) asking(n int) (s *site, proxies map[int]uint32, err error) {
	if s, err = b.inhabited(n); err != nil {
		return nil, nil, err
	}
	for vm := range n {
		err = errors.Join(err, s.save(vm, openLine, namesLine))
	}
	if err = errors.Join(err, s.untilAtRest(b.ctx)); err != nil {
		return nil, nil, err
	}
	proxies, err = s.proxies()
	return s, proxies, err
}

// lookup measures from a question of a proxy for a name that was not asked before until its answer, which comes when the address is open.
func (b *bench) lookup() (outcome, error) {
	s, proxies, err := b.asking(1)
	if err != nil {
		return outcome{}, err
	}
	n := 0
	ask := func(uid uint32, server netip.Addr) func() (float64, error) {
		return func() (float64, error) {
			n++
			_, took, err := s.Question(uid, server, fmt.Sprintf("n%d.example", n))
			return milliseconds(took), err
		}
	}
	var uid uint32
	for _, uid = range proxies {
	}
	return b.alternate("ms", ask(0, lab.NameServers[0]), ask(uid, libraryServer))
}

// again measures a request to a host to which there was one just before. tinyproxy asks the name server for each.
func (b *bench) again() (outcome, error) {
	alone, err := b.alone()
	if err != nil {
		return outcome{}, err
	}
	end, err := peers.Tinyproxy.Start(b.ctx, alone.Lab, peers.Setup{Dir: filepath.Join(alone.dir, "again"),
		Listen: netip.AddrPortFrom(lab.Gateway, lab.ProxyPort), Client: addr(0), Hosts: []string{knownHost}})
	if err != nil {
		return outcome{}, err
	}
	defer end()
	s, _, err := b.asking(1)
	if err != nil {
		return outcome{}, err
	}
	second := func(s *site) func() (float64, error) {
		return func() (took float64, err error) {
			if err := s.Answer(lab.Manner{Late: awayTime, TTL: 60}); err != nil {
				return 0, err
			}
			defer s.Answer(lab.Manner{}) //nolint:errcheck // it did so before
			err = s.from(s.Connections()[0], func(c caller.Caller) error {
				for range 2 {
					began := time.Now()
					status, err := c.Ask(knownHost)
					if took = milliseconds(time.Since(began)); err != nil || !isServed(status) {
						return fmt.Errorf("status %d, %w", status, err)
					}
				}
				return nil
			})
			return took, err
		}
	}
	return b.alternate("ms", second(alone), second(s))
}

// faults measures a page while name servers fail, or addresses of IPv6 lead nowhere. The floor is the same page without that. Each page is
// of another host, whose name has to be asked for. The first page of each run does not count.
func (b *bench) faults() (worst outcome, err error) {
	const each = 10
	s, proxies, err := b.asking(many)
	if err != nil {
		return worst, err
	}
	vm, hosts, server, nowhere := 0, 0, netip.MustParseAddr("203.0.113.31"), netip.MustParseAddr("2001:db8:6::1")
	with := func(first, both lab.Manner, addrs ...netip.Addr) func() (float64, error) {
		return func() (float64, error) {
			if err := errors.Join(s.Answer(both), s.Answer(first, lab.NameServers[0])); err != nil {
				return 0, err
			}
			vm++ // an AppVM that has asked for much waits
			var took []float64
			err := s.from(s.Connections()[vm%len(proxies)], func(c caller.Caller) error {
				c.Patience = patience
				for range 1 + each {
					hosts++
					host := fmt.Sprintf("n%d.example", 100_000+hosts)
					s.Host(host, addrs...)
					began := time.Now()
					if status, err := c.Ask(host); err != nil || !isServed(status) {
						return errors.Join(err, fmt.Errorf("%s: status %d", host, status))
					}
					took = append(took, milliseconds(time.Since(began)))
				}
				return nil
			})
			return median(took[min(1, len(took)):]), err
		}
	}
	well, noIPv6 := lab.Manner{}, lab.Manner{NoIPv6: true}
	for fault, page := range map[string]func() (float64, error){
		"the first name server is dead":   with(lab.Manner{Dead: true}, well, server),
		"the first name server is silent": with(lab.Manner{Silent: true}, well, server),
		"both are silent to AAAA":         with(noIPv6, noIPv6, server),
		"addresses of IPv6 lead nowhere":  with(well, well, nowhere, server),
	} {
		o, err := b.alternate("ms", with(well, well, server), page)
		if err = errors.Join(err, s.Answer(well)); err != nil {
			return o, fmt.Errorf("%s: %w", fault, err)
		}
		ratio := median(o.figures) / median(o.floors)
		o.notes = append(worst.notes, fmt.Sprintf("%s: %.2f×", fault, ratio))
		if len(worst.figures) == 0 || ratio > median(worst.figures)/median(worst.floors) {
			worst = o
		}
		worst.notes = o.notes
	}
	return worst, nil
}

// resolver measures the memory of the resolver when all AppVMs have asked for what they need.
func (b *bench) resolver() (o outcome, err error) {
	o.unit = "MiB"
	for _, to := range []struct {
		vms    int
		values *[]float64
	}{{1, &o.floors}, {many, &o.figures}} {
		s, proxies, err := b.asking(to.vms)
		if err != nil {
			return o, err
		}
		err = s.Answer(lab.Manner{TTL: 3600})
		for _, uid := range proxies {
			for name := range 50 {
				_, _, failed := s.Question(uid, libraryServer, fmt.Sprintf("n%d.example", name))
				err = errors.Join(err, failed)
			}
		}
		resolvers, failed := s.Processes(tinyproxy.NamesUID, tinyproxy.NamesUID)
		for pid := range resolvers {
			f, gone := taken.Memory(pid)
			failed = errors.Join(failed, gone)
			*to.values = []float64{f.Resident}
		}
		if err := errors.Join(err, failed); err != nil {
			return o, err
		}
	}
	return o, nil
}
