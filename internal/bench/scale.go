package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/bench/caller"
	"vifproxy/internal/bench/taken"
	"vifproxy/internal/lab"
)

// attachAmong measures what attach does, with many AppVMs served beside one.
func (b *bench) attachAmong() (outcome, error) {
	var come [2]func() (float64, error)
	for i, n := range []int{1, many} {
		s, err := b.inhabited(n)
		if err != nil {
			return outcome{}, err
		}
		if err := s.save(n, openLine); err != nil {
			return outcome{}, err
		}
		come[i] = func() (float64, error) { return s.comeAndGo(n) }
	}
	return b.alternate("ms", come[0], come[1])
}

// connect measures the time until the kernel has a connection open, by the last of many AppVMs. The proxy has no part in that.
// The floor is a connection to a tinyproxy by hand in a firewall VM without vifproxyd.
func (b *bench) connect() (outcome, error) {
	const each = 50
	alone, err := b.alone()
	if err != nil {
		return outcome{}, err
	}
	hand, err := b.byHand(alone, netip.AddrPortFrom(lab.Gateway, lab.ProxyPort), addr(0))
	if err != nil {
		return outcome{}, err
	}
	defer hand.close()
	_, end, err := hand.start()
	if err != nil {
		return outcome{}, err
	}
	defer end()
	one, err := b.inhabited(1)
	if err != nil {
		return outcome{}, err
	}
	among, err := b.inhabited(many)
	if err != nil {
		return outcome{}, err
	}
	measure := func(s *site, vm lab.VM) func() (float64, error) {
		return func() (float64, error) {
			var took []float64
			err := s.from(vm, func(c caller.Caller) error {
				for range each {
					caller.Nap(time.Millisecond) // the proxy ends its thread for the one before
					began := time.Now()
					fd, err := c.Connect()
					if err != nil {
						return err
					}
					took = append(took, microseconds(time.Since(began)))
					unix.Close(fd)
				}
				return nil
			})
			return median(took), err
		}
	}
	all := among.Connections()
	o, err := b.byTurns("µs", b.Runs, measure(alone, alone.Connections()[0]), measure(among, all[len(all)-1]),
		peer{"1 AppVM", measure(one, one.Connections()[0])})
	o.note("each run is the median of %d connections", each)
	return o, err
}

// coldStart measures from the daemon's fork until the last of many AppVMs has had an answer from its proxy.
func (b *bench) coldStart() (outcome, error) {
	const vms = 200
	var all []lab.VM
	s, err := b.site("cold", func(s *site) error {
		for i := range vms {
			if err := errors.Join(s.Attach(s.vm(i)), s.save(i, openLine)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return outcome{}, err
	}
	all = s.Connections()
	hand, err := b.byHand(s, aside, addr(240))
	if err != nil {
		return outcome{}, err
	}
	defer hand.close()
	floor := func() (float64, error) {
		one, err := hand.time()
		return vms * one / float64(runtime.NumCPU()), err
	}
	o, err := b.alternate("ms", floor, func() (float64, error) {
		began := time.Now()
		if err := s.launch(b.ctx, b.Daemon); err != nil {
			return 0, err
		}
		// One after the other: who has answered once goes on answering, and a crowd of callers would take
		// the processors from what is measured.
		answered := began
		for _, vm := range all {
			err := s.from(vm, func(c caller.Caller) (err error) {
				answered, err = c.Until(refused, isRefused)
				return err
			})
			if err != nil {
				return 0, err
			}
		}
		return milliseconds(answered.Sub(began)), errors.Join(s.section(b, "cold"), s.stop())
	})
	if err != nil {
		return o, err
	}
	var crowds []float64
	for range 5 {
		took, err := b.crowdByHand(s, vms)
		if err != nil {
			return o, err
		}
		crowds = append(crowds, took)
	}
	o.note("%d by hand, one on each CPU at a time, take %.0f ms: %.2f× of that", vms, median(crowds), median(o.figures)/median(crowds))
	return o, nil
}

// reconcile measures a look at everything that finds nothing to do, as SIGHUP sets it going, from and to what
// the daemon tells systemd about it. The floor has the kernel list the same state, and reads the same directory.
func (b *bench) reconcile() (outcome, error) {
	s, err := b.inhabited(many)
	if err != nil {
		return outcome{}, err
	}
	floor := func() (took float64, err error) {
		err = s.Do(func() error {
			began := time.Now()
			if err := dump(); err != nil {
				return err
			}
			files, err := os.ReadDir(s.rulesDir())
			for _, f := range files {
				if _, err := os.ReadFile(filepath.Join(s.rulesDir(), f.Name())); err != nil {
					return err
				}
			}
			took = milliseconds(time.Since(began))
			return err
		})
		return took, err
	}
	return b.alternate("ms", floor, func() (float64, error) {
		time.Sleep(quiet)
		return s.reload(b.ctx)
	})
}

// reload returns the milliseconds between the two notes to systemd of one SIGHUP, sd_notify(3).
func (s *site) reload(ctx context.Context) (float64, error) {
	s.notes.clear()
	if err := s.daemon.Process.Signal(syscall.SIGHUP); err != nil {
		return 0, err
	}
	var began int64 // µs of the monotonic clock
	var ended note
	err := until(ctx, "a reload is done", time.Millisecond, func() (ready bool, err error) {
		start, _ := s.notes.find("MONOTONIC_USEC=")
		_, err = fmt.Sscanf(start.text, "MONOTONIC_USEC=%d", &began)
		ended, ready = s.notes.find("READY=1")
		return ready && err == nil, nil
	})
	return float64(ended.at-began) / 1000, err
}

// comeToRest is how long after the last event the daemon does nothing more, not even give memory back.
const comeToRest = 15 * time.Second

// idleTime is how long nothing happens, with the usual number of runs.
func (b *bench) idleTime() time.Duration { return time.Duration(min(b.Runs, 20)) * 3 * time.Second }

// idle measures what the daemon uses while nothing happens. How often it wakes up is seen by looking at its
// CPU time, which does not wake it.
func (b *bench) idle() (outcome, error) {
	const look = 250 * time.Millisecond
	s, err := b.inhabited(many)
	if err != nil {
		return outcome{}, err
	}
	pid := s.daemon.Process.Pid
	time.Sleep(comeToRest)
	before, err := taken.Switches(pid)
	if err != nil {
		return outcome{}, err
	}
	first, err := taken.CPU(pid)
	var awake []time.Duration
	tick := time.NewTicker(look)
	defer tick.Stop()
	begun := time.Now()
	for last := first; err == nil && time.Since(begun) < b.idleTime(); {
		<-tick.C
		var now time.Duration
		if now, err = taken.CPU(pid); now > last {
			awake, last = append(awake, time.Since(begun)), now
		}
		err = errors.Join(err, b.ctx.Err())
	}
	used, err2 := taken.CPU(pid)
	after, err3 := taken.Switches(pid)
	o := outcome{unit: "ms", figures: []float64{milliseconds(used - first)}}
	o.note("in %v it was awake in %d quarters of a second, and its threads went to sleep %d times",
		b.idleTime(), len(awake), after-before)
	for i := 1; i < len(awake); i++ { // a look that lies across two quarters is one
		if gap := awake[i] - awake[i-1]; gap > 2*look && gap < 29*time.Second {
			o.wrong = append(o.wrong, fmt.Sprintf("it woke up %.1f s after it had woken up", gap.Seconds()))
		}
	}
	return o, errors.Join(err, err2, err3)
}

// memory measures resident memory, and the proportional share of all that runs, when nothing has happened for a while at the only site.
func (b *bench) memory() (outcome, error) {
	const some, helpersMax, eachMax = 10, 16, 1.6 // AppVMs; MiB of daemon and helpers, and of each proxy
	o, all := outcome{unit: "MiB"}, map[int]float64{}
	empty := exec.Command(b.Empty)
	if err := empty.Start(); err != nil {
		return o, err
	}
	defer func() { _, _ = empty.Process.Kill(), empty.Wait() }() // it does not end by itself
	for _, n := range []int{1, some, 50, many} {
		if err := b.close(); err != nil {
			return o, err
		}
		s, err := b.inhabited(n)
		if err != nil {
			return o, err
		}
		time.Sleep(comeToRest)
		floor, err1 := taken.Memory(empty.Process.Pid)
		f, err2 := taken.Memory(s.daemon.Process.Pid)
		parts, err3 := taken.Shares(s.daemon.Process.Pid)
		if err := errors.Join(err1, err2, err3); err != nil {
			return o, err
		}
		o.figures, o.floors = []float64{f.Resident}, []float64{floor.Resident}
		helpers, proxy := parts["vifproxy-names"]+parts["vifproxy-confine"], parts["tinyproxy"]/float64(n)
		all[n] = f.Share + helpers + parts["tinyproxy"]
		o.note("with %d AppVMs %.1f MiB are its own and %.1f MiB its program file's; the shares of daemon, helpers and each proxy are "+
			"%.1f, %.1f and %.2f MiB", n, f.Anonymous, f.Resident-f.Anonymous, f.Share, helpers, proxy)
		if n == some && (f.Share+helpers > helpersMax || proxy > eachMax) {
			o.wrong = append(o.wrong, fmt.Sprintf("with %d AppVMs daemon and helpers have %.1f MiB, and each proxy %.2f", n, f.Share+helpers, proxy))
		}
	}
	each := (all[many] - all[1]) / (many - 1)
	o.note("the share of all that runs is %.1f MiB and %.2f for each AppVM", all[1]-each, each)
	return o, nil
}

// section has a daemon that can do so write its profiles of the time since the last section, and keeps them
// under a name; "" throws them away.
func (s *site) section(b *bench, name string) error {
	if s.profile == "" || s.daemon == nil || s.daemon.ProcessState != nil {
		return nil
	}
	if err := s.daemon.Process.Signal(syscall.SIGUSR2); err != nil {
		return err
	}
	done := filepath.Join(s.profile, "done")
	err := until(b.ctx, "the daemon has written its profiles", 5*time.Millisecond, func() (bool, error) {
		text, _ := os.ReadFile(done)
		return bytes.HasPrefix(text, []byte("done")), nil
	})
	if err != nil {
		return err
	}
	problems := []error{os.Remove(done)}
	for _, kind := range []string{"cpu", "heap"} {
		if name != "" {
			text, err := os.ReadFile(filepath.Join(s.profile, kind))
			problems = append(problems, err, os.WriteFile(filepath.Join(b.Profile, name+"."+kind+".pprof"), text, 0o644))
		}
	}
	return errors.Join(problems...)
}
