package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/lab"
	"vifproxy/internal/simulate/model"
	"vifproxy/tinyproxy"
)

// This file is what answers questions for names in the chaos run, and what does not: name servers, hosts(5), the resolver.

// elsewhere is a public address that no name server has ever given to anybody. Lines in hosts(5) lead to another one.
var (
	elsewhere = netip.MustParseAddr("203.0.113.99")
	hostsLead = netip.MustParseAddr("203.0.113.88")
)

// naming is what the actions have done to those who answer.
type naming struct {
	bad   [2]bool // name servers that do not answer as they should
	alone bool    // one of the two is not in resolv.conf
	lying hosts   // to which name servers, or hosts(5), give other addresses now
	since bool    // something of this was so since the last settled moment
}

// nameServer has one of the two name servers answer badly, and the other one well. Nobody misses anything.
func (c *chaos) nameServer() string {
	n := c.rng.IntN(2)
	manner := []lab.Manner{{Silent: true}, {Dead: true}, {Late: time.Duration(1+c.rng.IntN(3000)) * time.Millisecond}, {NoIPv6: true}, {}}[c.rng.IntN(5)]
	if c.naming.alone { // it may be the only one
		c.court.change(func(m *model.Model) { m.Disturb() })
	}
	c.naming.bad, c.naming.since = [2]bool{}, true
	c.naming.bad[n] = manner != lab.Manner{}
	c.must(c.Answer(lab.Manner{}, lab.NameServers[1-n]))
	c.must(c.Answer(manner, lab.NameServers[n]))
	return fmt.Sprintf("%v %+v", lab.NameServers[n], manner)
}

// noNameServer has both answer nothing.
func (c *chaos) noNameServer() string {
	manner := []lab.Manner{{Silent: true}, {Dead: true}}[c.rng.IntN(2)]
	c.court.change(func(m *model.Model) { m.Disturb() })
	c.naming.bad, c.naming.since = [2]bool{true, true}, true
	c.must(c.Answer(manner))
	return fmt.Sprintf("%+v", manner)
}

// editResolvers takes one of the two name servers out of resolv.conf, or puts it back, in place. The other one answers. It never
// puts one in the place of the other: the fence refuses questions to a new one for a moment, see docs/security.md.
func (c *chaos) editResolvers() string {
	if c.naming.bad != [2]bool{} {
		c.court.change(func(m *model.Model) { m.Disturb() })
	}
	lines := []string{"nameserver 10.139.1.1\n", "nameserver 10.139.1.2\n"}
	if c.naming.alone = !c.naming.alone; c.naming.alone {
		n := c.rng.IntN(2)
		lines[n] = "#" + lines[n][1:]
	}
	f, err := os.OpenFile(c.etc("resolv.conf"), os.O_WRONLY, 0)
	c.must(err)
	defer f.Close()
	_, err = f.WriteAt([]byte(lines[0]+lines[1]), 0)
	c.must(err)
	return fmt.Sprintf("%q", lines)
}

func (s *site) etc(file string) string { return filepath.Join("/etc/netns", s.Name+"-fw", file) }

// editHosts has hosts(5) say where a listed host is.
func (c *chaos) editHosts() string {
	host := c.rng.IntN(echoHost)
	places := slices.Concat(insiders, outsiders, []netip.Addr{hostsLead, hostsLead, hostsLead, hostsLead})
	line := fmt.Sprintf("%v %s\n", places[c.rng.IntN(len(places))], universe[host])
	c.misleads(host)
	c.must(writeFile(c.etc("hosts"), []byte(lab.Hosts+line), 0o644))
	return strings.TrimSpace(line)
}

// misleads notes that a name leads elsewhere.
func (c *chaos) misleads(host int) {
	c.naming.lying |= 1 << host
	c.naming.since = true
	c.court.change(func(*model.Model) { c.court.lies |= 1 << host })
}

// truth has all name servers answer, and say what is so. The daemon may not have read hosts(5) yet, and a question that is under way may
// be answered as before.
func (c *chaos) truth() {
	for host := range universe {
		if c.naming.lying.Has(host) {
			c.Host(universe[host], origin(host))
		}
	}
	if c.naming.lying != 0 {
		c.must(writeFile(c.etc("hosts"), []byte(lab.Hosts), 0o644))
	}
	c.must(c.Answer(lab.Manner{}))
	c.naming.lying, c.naming.bad = 0, [2]bool{}
}

// awaitNames waits until proxies are told the truth again. For some seconds they may be told what was so before: the resolver gives out
// old answers for a while after all name servers have been silent.
func (c *chaos) awaitNames(status control.Status) {
	if !c.naming.since {
		return
	}
	for _, vm := range c.court.VMs {
		serves := slices.ContainsFunc(status.VMs, func(row control.VM) bool { return row.IP == vm.IP.String() && row.State == control.Running })
		if !serves || len(vm.Astray) > 0 {
			continue
		}
		for host := range universe {
			c.until("its name is known to "+c.names[vm], func() error {
				if r := c.try(vm, "http", host, true); !c.broken() && (r.Err != nil || r.Status != 200 && r.Status != 403) {
					return fmt.Errorf("%s: %+v", universe[host], r)
				}
				return nil
			})
		}
	}
	c.court.change(func(*model.Model) { c.court.lies = 0 })
	c.naming.since = false
}

// hitResolver ends the resolver, or has it stand still until the daemon ends it. The questions wait for the next one.
func (c *chaos) hitResolver(how syscall.Signal) string {
	all := c.processes(func(uid uint32) bool { return uid == tinyproxy.NamesUID })
	for _, pid := range all {
		syscall.Kill(pid, how) //nolint:errcheck // it may have ended
	}
	c.counts[fmt.Sprintf("resolvers hit by %v", how)] += len(all)
	return fmt.Sprint(all)
}

// strangeWay has somebody who has taken a proxy over connect to a public address that nobody was ever told.
func (c *chaos) strangeWay() string {
	vm, never := c.one(), len(universe)-1
	if !c.isReady() || c.thin && !c.update() {
		return "not now"
	}
	t := c.court.begin(vm, never, false) // default allow opens all addresses
	connected := c.connectsAs(uidOf(vm.IP), netip.AddrPortFrom(elsewhere, 80))
	r := lab.Result{Err: errors.New("refused")}
	if connected {
		r = lab.Result{Status: 200}
	}
	if err := c.court.end(t, r, false); err != nil && !c.fence.excuses(time.Now()) {
		c.fail("by its address: %v; %v", err, &c.fence)
	}
	return fmt.Sprint(c.names[vm], connected)
}

// connectsAs reports whether a program of a user gets a connection from the firewall VM.
func (s *site) connectsAs(uid uint32, to netip.AddrPort) (connected bool) {
	s.Helper()
	s.must(s.Do(func() error {
		if err := unix.Setfsuid(int(uid)); err != nil { // whose socket it is (nft_meta.c: f_cred->fsuid); of this thread alone
			return err
		}
		defer unix.Setfsuid(0) //nolint:errcheck // back to what it was
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 1}); err != nil {
			return err
		}
		connected = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}) == nil
		return nil
	}))
	return connected
}

// comparePins checks, at a settled moment, that the addresses of the hosts that a list has are open to its AppVM's proxy, and no others.
// A list that permits what it does not name opens all.
func (c *chaos) comparePins(seen []policy) {
	for i, vm := range c.court.VMs {
		if len(vm.Astray) > 0 || seen[i].Permits.Has(len(universe)-1) {
			continue
		}
		for host := range universe {
			c.until("what is open to it is what it may reach", func() error {
				open := c.connectsAs(uidOf(vm.IP), netip.AddrPortFrom(origin(host), 80))
				if open { // the origin has counted it
					c.court.Lock()
					c.court.reached[host]++
					c.court.rightful[host]++
					c.court.Unlock()
				}
				if open != seen[i].Permits.Has(host) {
					return fmt.Errorf("%s: %v, %s is open: %v", c.names[vm], seen[i], universe[host], open)
				}
				return nil
			})
		}
		c.counts["pins compared"]++
	}
}
