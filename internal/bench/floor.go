package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"vifproxy/internal/bench/caller"
	"vifproxy/internal/lab"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
)

const tinyproxyPath = "/usr/bin/tinyproxy"

// byHand starts the tinyproxy that vifproxyd starts, confined as there, and does nothing else: its files are
// written beforehand, nobody reads what it says, nobody waits for its end.
type byHand struct {
	lab     *lab.Lab
	sandbox *confine.Sandbox
	box     confine.Box
	listen  netip.AddrPort
	uid     uint32
	config  string
	null    *os.File
	pid     int // of the last that was started
}

// aside is where a proxy by hand listens beside those of a daemon: outside of the ports that the firewall guards, and of
// those that the kernel gives to who asks whether somebody listens.
var aside = netip.MustParseAddrPort("127.0.0.1:65535")

// strangerUID is no proxy's: the guard lets no process with such a uid accept a connection that is not bound to it.
const strangerUID = 0x6fffffff

// byHand prepares it, in the firewall VM of a site, for a client.
func (b *bench) byHand(s *site, listen netip.AddrPort, client netip.Addr) (*byHand, error) {
	dir, err := os.MkdirTemp(s.dir, "by-hand-")
	if err != nil {
		return nil, err
	}
	h := &byHand{lab: s.Lab, listen: listen, uid: strangerUID, config: filepath.Join(dir, "config")}
	text := rules.Builtin().Render(rules.Values{Port: listen.Port(), VMIP: client, BindIP: listen.Addr(),
		LogFile: dir + "/log", PidFile: dir + "/pid", RulesFile: dir + "/rules"})
	config, text, err := tinyproxy.ParseConfig("", text)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(h.config, []byte(text), 0o644),
		os.WriteFile(filepath.Join(dir, "rules"), []byte(openLine+"\n"), 0o644)); err != nil {
		return nil, err
	}
	h.box = confine.Box{
		Program: tinyproxyPath, Clients: config.MaxClients, TimerSlack: 10_000_000, Read: []string{dir},
		Port: listen.Port(), Bind: []uint16{listen.Port()}, Connect: []uint16{53, 80, 443},
	}
	if h.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	h.sandbox, err = confine.New(filepath.Join(filepath.Dir(b.Daemon), "vifproxy-confine"))
	return h, err
}

func (h *byHand) close() {
	h.sandbox.Close()
	h.null.Close()
}

// start returns how long it took from preparing the sandbox until somebody listens, and what ends it.
func (h *byHand) start() (took time.Duration, end func(), err error) {
	err = h.lab.Do(func() error {
		began := time.Now()
		cell, err := h.sandbox.Prepare(h.box)
		if err != nil {
			return err
		}
		defer cell.Started()
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(pair[0])
		pid, err := h.sandbox.ForkExec(confine.Room{}, pair[1], confine.ProxyScore, []string{"PATH=/usr/bin:/bin"}, &syscall.SysProcAttr{Setsid: true})
		unix.Close(pair[1])
		if err == nil {
			err = cell.HandOver(confine.Room{}, pair[0], h.uid, int(h.null.Fd()), []string{tinyproxyPath, "-d", "-c", h.config})
		}
		if err != nil {
			return errors.Join(err, cell.Remove())
		}
		h.pid = pid
		end = func() {
			_ = unix.Kill(-pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, 0, nil)
			_ = cell.Remove()
		}
		for ; !h.listens(); caller.Nap(caller.Pause / 2) {
			if time.Since(began) > patience {
				end()
				return fmt.Errorf("tinyproxy started by hand does not listen on %v", h.listen)
			}
		}
		took = time.Since(began)
		return nil
	})
	return took, end, err
}

// listens asks by connecting, which tinyproxy takes for a client that goes away.
func (h *byHand) listens() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrInet4{Addr: h.listen.Addr().As4(), Port: int(h.listen.Port())}) == nil
}

// time starts one and ends it.
func (h *byHand) time() (float64, error) {
	took, end, err := h.start()
	if err != nil {
		return 0, err
	}
	end()
	return milliseconds(took), nil
}

// crowdByHand starts many, one on each CPU at a time, and returns how long that took: what is possible where all CPUs have
// starts to do.
func (b *bench) crowdByHand(s *site, many int) (took float64, err error) {
	queue := make(chan *byHand, many)
	for i := range many {
		h, err := b.byHand(s, netip.AddrPortFrom(aside.Addr(), aside.Port()-1-uint16(i)), addr(i))
		if err != nil {
			return 0, err
		}
		defer h.close()
		queue <- h
	}
	close(queue)
	ends := make(chan func(), many)
	var group errgroup.Group
	began := time.Now()
	for range runtime.NumCPU() {
		group.Go(func() error {
			for h := range queue {
				_, end, err := h.start()
				if err != nil {
					return err
				}
				ends <- end
			}
			return nil
		})
	}
	err = group.Wait()
	took = milliseconds(time.Since(began))
	close(ends)
	for end := range ends {
		end()
	}
	return took, err
}
