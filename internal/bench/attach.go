package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vifproxy/internal/lab"
)

// quiet is how long a daemon has nothing to do before something is measured.
const quiet = 50 * time.Millisecond

// refused is a host on nobody's list: the proxy itself answers.
const refused = "refused.example"

func isRefused(status int) bool { return status == http.StatusForbidden }
func isServed(status int) bool  { return status == http.StatusOK }

// attach measures how soon one more AppVM has its proxy, while one other has.
func (b *bench) attach() (outcome, error) {
	s, err := b.inhabited(1)
	if err != nil {
		return outcome{}, err
	}
	hand, err := b.byHand(s, aside, addr(240))
	if err != nil {
		return outcome{}, err
	}
	defer hand.close()
	guest, err := s.newcomer(1)
	if err != nil {
		return outcome{}, err
	}
	defer guest.close()
	return b.alternate("ms", hand.time, guest.comeAndGo)
}

// newcomer is an AppVM with a rule file that comes and goes.
type newcomer struct {
	s      *site
	number int
	events *nl.NetlinkSocket // addresses of links, as the kernel announces them
}

func (s *site) newcomer(number int) (*newcomer, error) {
	n := &newcomer{s: s, number: number}
	err := s.Do(func() (err error) {
		n.events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR)
		return err
	})
	if err != nil {
		return nil, err
	}
	timeout := unix.NsecToTimeval(patience.Nanoseconds())
	return n, errors.Join(n.events.SetReceiveTimeout(&timeout), s.save(number, openLine))
}

func (n *newcomer) close() { n.events.Close() }

// comeAndGo attaches the AppVM and returns the milliseconds from the last event until its proxy answers.
func (n *newcomer) comeAndGo() (took float64, err error) {
	vm := n.s.vm(n.number)
	time.Sleep(quiet)
	last := make(chan time.Time, 1)
	heard := make(chan error, 1)
	go func() { heard <- n.hear(last) }()
	if err := n.s.Attach(vm); err != nil {
		return 0, err
	}
	if err := <-heard; err != nil {
		return 0, err
	}
	err = n.s.from(vm, func(c caller) error {
		answered, err := c.until(refused, isRefused)
		took = milliseconds(answered.Sub(<-last))
		return err
	})
	return took, errors.Join(err, n.s.leave(vm))
}

// hear says when the gateway's address appears on a vif, the last event of an attach.
func (n *newcomer) hear(last chan<- time.Time) error {
	for {
		messages, _, err := n.events.Receive()
		now := time.Now()
		if err != nil {
			return fmt.Errorf("wait for the last event of an attach: %w", err)
		}
		for _, m := range messages {
			if m.Header.Type == syscall.RTM_NEWADDR {
				last <- now
				return nil
			}
		}
	}
}

// leave detaches an AppVM and waits until its proxy has ended.
func (s *site) leave(vm lab.VM) error {
	if err := s.Detach(vm.Vif()); err != nil {
		return err
	}
	return s.untilAtRest(context.Background())
}

// rules measures how soon a new line of a rule file is in force.
func (b *bench) rules() (outcome, error) {
	s, err := b.inhabited(1)
	if err != nil {
		return outcome{}, err
	}
	hand, err := b.byHand(s, aside, addr(240))
	if err != nil {
		return outcome{}, err
	}
	defer hand.close()
	vm := s.Connections()[0]
	last := 10
	o, err := b.alternate("ms", hand.time, func() (took float64, err error) {
		if err := s.untilAtRest(b.ctx); err != nil {
			return 0, err
		}
		time.Sleep(quiet)
		last++
		if last == 255 {
			last = 11
		}
		err = s.from(vm, func(c caller) error {
			host := fmt.Sprintf("203.0.113.%d", last)
			if err := s.save(0, openLine, fmt.Sprintf(`^203\.0\.113\.%d$`, last)); err != nil {
				return err
			}
			saved := time.Now()
			answered, err := c.until(host, isServed)
			took = milliseconds(answered.Sub(saved))
			return err
		})
		return took, err
	})
	o.note("of the measured, %.0f ms are the time in which more changes are waited for", settle)
	return o, err
}

// settle is the supervisor's, in milliseconds.
const settle = 10.0
