// Package qubestest is a double of qubesdb-daemon for tests: it follows the protocol byte for byte, as the daemon of
// qubes-core-qubesdb 4.3 does, and can be as unpleasant as the daemon may be.
//
// Concurrency: the methods of a Daemon may be called from any goroutine.
package qubestest

import (
	"encoding/binary"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A Daemon answers at a socket.
type Daemon struct {
	Socket string

	mu       sync.Mutex
	entries  map[string]string
	clients  map[net.Conn]*client
	listener net.Listener
	silence  chan struct{} // closed when it ends; nil if the daemon answers
	untold   []func()      // events of that time
	nonsense []byte
	between  func() // is called in the middle of the next answer that has several messages
}

type client struct {
	watches []string
	mu      sync.Mutex // of writing
}

// Start makes a Daemon at a path, until the test ends.
func Start(t testing.TB, socket string) *Daemon {
	t.Helper()
	d := &Daemon{Socket: socket, entries: map[string]string{}, clients: map[net.Conn]*client{}}
	if err := d.listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	return d
}

func (d *Daemon) listen() error {
	l, err := net.Listen("unix", d.Socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(d.Socket, 0o666); err != nil { // init_server_socket in db-daemon.c
		return err
	}
	d.mu.Lock()
	d.listener = l
	d.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go d.serve(c)
		}
	}()
	return nil
}

// Stop ends the daemon, and all conversations. What it holds stays.
func (d *Daemon) Stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listener.Close()
	for c := range d.clients {
		c.Close()
	}
	if d.silence != nil {
		close(d.silence)
		d.silence, d.untold = nil, nil
	}
}

// Restart ends all conversations, and answers again.
func (d *Daemon) Restart(t testing.TB) {
	t.Helper()
	d.Stop()
	_ = os.Remove(d.Socket)
	if err := d.listen(); err != nil {
		t.Fatal(err)
	}
}

// Silence makes the daemon say nothing from now on, or go on: it answers what it was asked meanwhile, and tells what has changed.
func (d *Daemon) Silence(silent bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case silent && d.silence == nil:
		d.silence = make(chan struct{})
	case !silent && d.silence != nil:
		for _, tell := range d.untold {
			tell()
		}
		close(d.silence)
		d.silence, d.untold = nil, nil
	}
}

// Nonsense makes the daemon answer the next question with these bytes.
func (d *Daemon) Nonsense(answer []byte) { d.set(func() { d.nonsense = answer }) }

// Between has f called in the middle of the next answer that has several messages.
func (d *Daemon) Between(f func()) { d.set(func() { d.between = f }) }

func (d *Daemon) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// Write puts a value at a path, as dom0 does.
func (d *Daemon) Write(path, value string) {
	d.set(func() { d.entries[path] = value })
	d.fire(path)
}

// Remove takes a path away or, if it ends in a slash, all that begins with it.
func (d *Daemon) Remove(path string) {
	d.set(func() {
		maps.DeleteFunc(d.entries, func(p, _ string) bool {
			return p == path || strings.HasSuffix(path, "/") && strings.HasPrefix(p, path)
		})
	})
	d.fire(path)
}

// Firewall writes the rules of an AppVM as dom0 does (qubes/vm/mix/net.py, reload_firewall_for_vm).
func (d *Daemon) Firewall(addr, policy string, rules ...string) {
	base := "/qubes-firewall/" + addr
	d.Remove(base + "/")
	d.Write(base+"/policy", policy)
	for i, rule := range rules {
		d.Write(base+"/"+string([]byte{'0', '0', byte('0' + i/10), byte('0' + i%10)}), rule)
	}
	d.Write(base, "")
}

const (
	pathSize   = 64
	headerSize = 72
)

// header is struct qdb_hdr. rest is what the array still has behind the NUL that ends the path.
func header(kind byte, path, rest string, size int) []byte {
	h := make([]byte, headerSize)
	h[0] = kind
	n := copy(h[1:pathSize], path)
	if len(rest) > n {
		copy(h[1+n+1:1+pathSize], rest[n+1:])
	}
	binary.NativeEndian.PutUint32(h[68:], uint32(size))
	return h
}

// say writes a message in two pieces.
func (c *client) say(to net.Conn, message []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	half := len(message) / 2
	_, _ = to.Write(message[:half])
	_, _ = to.Write(message[half:])
}

// fire tells those who watch a path that it has changed: once for each watch.
func (d *Daemon) fire(path string) {
	d.mu.Lock()
	var all []func()
	for to, c := range d.clients {
		for _, watch := range c.watches {
			if path == watch || strings.HasSuffix(watch, "/") && strings.HasPrefix(path, watch) {
				all = append(all, func() { c.say(to, header(13, path, "", 0)) })
			}
		}
	}
	if d.silence != nil {
		d.untold = append(d.untold, all...)
		all = nil
	}
	d.mu.Unlock()
	for _, tell := range all {
		tell()
	}
}

func (d *Daemon) serve(to net.Conn) {
	defer to.Close()
	c := &client{}
	d.set(func() { d.clients[to] = c })
	defer d.set(func() { delete(d.clients, to) })
	for {
		var question [headerSize]byte
		if _, err := io.ReadFull(to, question[:]); err != nil {
			return
		}
		path, _, _ := strings.Cut(string(question[1:1+pathSize]), "\x00")
		d.mu.Lock()
		silence, nonsense := d.silence, d.nonsense
		d.nonsense = nil
		d.mu.Unlock()
		if silence != nil {
			<-silence
		}
		if nonsense != nil {
			c.say(to, nonsense)
		} else {
			d.answer(to, c, question[0], path)
		}
	}
}

func (d *Daemon) answer(to net.Conn, c *client, kind byte, path string) {
	d.mu.Lock()
	entries, between := maps.Clone(d.entries), d.between
	d.mu.Unlock()
	switch kind {
	case 0: // READ
		if value, there := entries[path]; there {
			c.say(to, append(header(10, path, "", len(value)), value...))
		} else {
			c.say(to, header(8, path, "", 0))
		}
	case 2: // MULTIREAD
		before := path
		for i, p := range slices.Sorted(maps.Keys(entries)) {
			if !strings.HasPrefix(p, path) {
				continue
			}
			c.say(to, append(header(11, p, "", len(entries[p])), entries[p]...))
			before = p
			if between != nil && i > 0 {
				d.Between(nil)
				between()
				between = nil
			}
		}
		c.say(to, header(11, "", before, 0))
	case 5: // WATCH
		d.set(func() { c.watches = append(c.watches, path) })
		c.say(to, header(7, path, "", 0))
	default: // WRITE and RM of who may only read, and what there is not
		c.say(to, header(9, path, "", 0))
	}
}
