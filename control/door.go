package control

import (
	"log/slog"
	"net"
	"sync"
	"time"
)

// A door is where connections come in. Root gets in whatever others do, and one of the others does not keep the rest out.
type door struct {
	*net.UnixListener
	gid    int // of the group that may use the socket; -1 if none
	limits limits
	log    *slog.Logger

	mu     sync.Mutex
	inside map[uint32]int32 // connections, by uid
	told   time.Time        // when the log last had a line about one for which there is no room
}

// tellInterval is the time between two such lines: whoever fills the socket tries again and again.
const tellInterval = time.Minute

// A visit is a connection of a peer who has been let in.
type visit struct {
	*net.UnixConn
	peer peer
}

// Accept returns the next connection for which there is room, a *visit. It closes those for which there is none.
func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.AcceptUnix()
		if err != nil {
			return nil, err
		}
		p, err := peerOf(conn, d.gid)
		if err != nil {
			d.log.Error("control socket: the kernel does not say who connects: turned away", "err", err)
		}
		if err == nil && d.admit(p.uid) {
			return &visit{conn, p}, nil
		}
		conn.Close()
		if err == nil {
			d.tell(p, time.Now())
		}
	}
}

// admit counts one more connection of a uid, and reports whether there is room for it. If there is none, it does not count.
func (d *door) admit(uid uint32) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	room := d.inside[uid] < d.limits.connections
	if uid != 0 {
		all := int32(0)
		for other, n := range d.inside {
			if other != 0 {
				all += n
			}
		}
		room = d.inside[uid] < d.limits.each && all < d.limits.connections
	}
	if room {
		d.inside[uid]++
	}
	return room
}

// tell says in the log that there is no room for a peer, to whom its client says to look there.
func (d *door) tell(p peer, now time.Time) {
	d.mu.Lock()
	due := d.told.IsZero() || now.Sub(d.told) >= tellInterval
	if due {
		d.told = now
	}
	all := 0
	for _, n := range d.inside {
		all += int(n)
	}
	d.mu.Unlock()
	if due {
		d.log.Warn("control socket: no room for one more connection: turned away", "uid", p.uid, "pid", p.pid, "count", all)
	}
}

// left counts one connection less.
func (d *door) left(uid uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inside[uid]--; d.inside[uid] == 0 {
		delete(d.inside, uid)
	}
}
