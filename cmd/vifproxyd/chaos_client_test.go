package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"vifproxy/internal/lab"
	"vifproxy/internal/simulate/model"
)

// This file is the clients of the chaos run, and the court that judges what they saw.

// trial is one attempt to reach a host, under the eyes of the model from its begin to its end.
type trial struct {
	vm      *appVM
	host    int
	may     bool // permitted at some time meanwhile
	must    bool // permitted all the time
	certain bool // its proxy had to be there all the time
	lied    bool // the name had another address than its own at some time meanwhile
}

// court holds the model, and judges what clients saw by all that held while they saw it.
type court struct {
	sync.Mutex
	*model.Model
	lies     hosts // that name servers give other addresses than their own, or may
	barred   bool  // nothing may leave by the uplink
	open     map[*trial]bool
	rightful [16]int // trials by host that may have reached it
	reached  [16]int // trials by host that did reach it
	refused  int
	failed   int
}

// change changes the model, before that which it tells of is done.
func (c *court) change(f func(m *model.Model)) {
	c.Lock()
	defer c.Unlock()
	f(c.Model)
	for t := range c.open {
		c.look(t)
	}
}

func (c *court) look(t *trial) {
	must, certain := c.Must(t.vm)
	t.may = t.may || !c.barred && c.May(t.vm).Has(t.host)
	t.must = t.must && must.Has(t.host)
	t.lied = t.lied || c.lies.Has(t.host)
	t.certain = t.certain && certain && !t.lied
}

// begin begins a trial. Liable is false for what may fail at any time.
func (c *court) begin(vm *appVM, host int, liable bool) *trial {
	c.Lock()
	defer c.Unlock()
	t := &trial{vm: vm, host: host, must: liable, certain: liable}
	c.open[t] = true
	c.look(t)
	return t
}

// explained notes that vifproxyctl may explain these hosts: if their lines are not in force, the daemon tries them as they are, and with
// each remedy, by proxies of their own.
func (c *court) explained(picked hosts) {
	const tries = 8
	c.Lock()
	defer c.Unlock()
	for host := range c.rightful {
		if picked.Has(host) {
			c.rightful[host] += tries
		}
	}
}

// end says what is wrong with a result; nil if nothing is. New says that the origin sees a connection of its
// own.
func (c *court) end(t *trial, r lab.Result, isNew bool) error {
	c.Lock()
	defer c.Unlock()
	delete(c.open, t)
	if t.may && isNew {
		c.rightful[t.host]++
	}
	what := fmt.Sprintf("%s asked for %s and got status %d, error %v; %v",
		t.vm.IP, universe[t.host], r.Status, r.Err, t.vm)
	switch {
	case r.Status == 200 && r.Err == nil:
		if isNew && !t.lied {
			c.reached[t.host]++
		}
		if !t.may {
			return fmt.Errorf("REACHED what nothing permits: %s", what)
		}
	case r.Status == 403:
		c.refused++
		if t.must {
			return fmt.Errorf("REFUSED what all permit: %s", what)
		}
	default:
		c.failed++
		if t.certain {
			return fmt.Errorf("CUT OFF although nothing that happened concerns it: %s", what)
		}
	}
	return nil
}

// client asks for one host after the other until the run ends.
func (c *chaos) client(vm *appVM, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, seed))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var tunnel net.Conn
	hangUp := func() {
		if tunnel != nil {
			tunnel.Close()
			tunnel = nil
		}
	}
	defer hangUp()
	for {
		select {
		case <-tick.C:
		case <-c.done:
			return
		}
		c.gate.RLock()
		switch rng.IntN(8) {
		case 0:
			c.neighbour(vm, rng)
		case 1, 2:
			if tunnel == nil {
				tunnel = c.dig(vm, false)
			} else if !c.ping(vm, tunnel, false) {
				hangUp()
			}
		default:
			scheme := "http"
			if rng.IntN(8) == 0 {
				scheme = "https"
			}
			c.try(vm, scheme, rng.IntN(len(universe)), c.certain(vm))
		}
		c.gate.RUnlock()
	}
}

func (c *chaos) certain(vm *appVM) bool {
	c.court.Lock()
	defer c.court.Unlock()
	_, certain := c.court.Must(vm)
	return certain
}

// try asks for one host and has the result judged. Sure is whether a proxy is there.
func (c *chaos) try(vm *appVM, scheme string, host int, sure bool) lab.Result {
	if universe[host] == "echo.example" {
		scheme = "http" // its port 443 speaks no TLS
	}
	t := c.court.begin(vm, host, true)
	ctx, cancel := c.bounded(vm, sure)
	defer cancel()
	r := c.Fetch(ctx, c.names[vm], "", scheme+"://"+universe[host]+"/")
	if err := c.court.end(t, r, true); err != nil {
		c.fail("%v", err)
	}
	return r
}

// neighbour tries a port where some proxy listens, or did. Whosever it is, it is no way to another's list.
func (c *chaos) neighbour(vm *appVM, rng *rand.Rand) {
	to := c.target()
	if !to.IsValid() {
		return
	}
	t := c.court.begin(vm, rng.IntN(len(universe)), false)
	ctx, cancel := c.bounded(vm, false)
	defer cancel()
	r := c.Fetch(ctx, c.names[vm], to.String(), "http://"+universe[t.host]+"/")
	if err := c.court.end(t, r, true); err != nil {
		c.fail("at %s: %v", to, err)
	}
}

// bounded is a context for one request. It ends when the AppVM's connection is taken away, since nobody
// tells the client then; and soon where a proxy need not be: what a vif that is half there is given is lost,
// and where the firewall rejects, TCP tries again after a second.
func (c *chaos) bounded(vm *appVM, sure bool) (context.Context, context.CancelFunc) {
	bound := 15 * time.Second
	if !sure {
		bound = 200 * time.Millisecond
	}
	return context.WithTimeout(c.cable(vm).ctx, bound)
}

func (c *chaos) cable(vm *appVM) cable {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cables[vm]
}

// unplugged ends the requests that are under way in an AppVM.
func (c *chaos) unplugged(vms ...*appVM) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, vm := range vms {
		c.cables[vm].cancel()
		c.cables[vm] = newCable()
	}
}

type cable struct {
	ctx    context.Context
	cancel context.CancelFunc
}

func newCable() (c cable) {
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

var echoHost = len(universe) - 2

// dig opens a tunnel to echo.example; nil if it cannot be. Sure is whether it has to be possible where that is permitted.
func (c *chaos) dig(vm *appVM, sure bool) net.Conn {
	cable := c.cable(vm)
	t := c.court.begin(vm, echoHost, sure)
	ctx, cancel := c.bounded(vm, sure)
	defer cancel()
	conn, err := c.Dial(ctx, c.names[vm], "tcp", fmt.Sprintf("%s:%d", c.gateway(vm), lab.ProxyPort))
	r := lab.Result{Err: err}
	if err == nil {
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		reply := make([]byte, 4096)
		fmt.Fprintf(conn, "CONNECT echo.example:443 HTTP/1.1\r\nHost: echo.example:443\r\n\r\n")
		n := 0
		for n < len(reply) && err == nil && !strings.Contains(string(reply[:n]), "\r\n\r\n") {
			var more int
			more, err = conn.Read(reply[n:])
			n += more
		}
		if _, rest, ok := strings.Cut(string(reply[:n]), " "); ok {
			fmt.Sscan(rest, &r.Status)
		}
	}
	if err := c.court.end(t, r, true); err != nil {
		c.fail("tunnel: %v", err)
	}
	if conn != nil && r.Status != 200 {
		conn.Close()
		return nil
	}
	if conn != nil {
		context.AfterFunc(cable.ctx, func() { conn.Close() })
	}
	return conn
}

// ping sends a byte through a tunnel. When it comes back, the host was reached again. Sure is whether it has to come back.
func (c *chaos) ping(vm *appVM, tunnel net.Conn, sure bool) bool {
	t := c.court.begin(vm, echoHost, sure)
	ctx, cancel := c.bounded(vm, sure)
	defer cancel()
	defer context.AfterFunc(ctx, func() { tunnel.SetDeadline(time.Unix(1, 0)) })()
	one := []byte{'x'}
	_, err := tunnel.Write(one)
	if err == nil {
		_, err = io.ReadFull(tunnel, one)
	}
	r := lab.Result{Status: 200, Err: err}
	if err := c.court.end(t, r, false); err != nil {
		c.fail("through an old tunnel: %v", err)
	}
	if err == nil {
		c.mu.Lock()
		c.pings++
		c.mu.Unlock()
	}
	return err == nil
}
