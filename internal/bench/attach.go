package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"vifproxy/internal/bench/caller"
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
	if err := s.save(1, openLine); err != nil {
		return outcome{}, err
	}
	return b.alternate("ms", hand.time, func() (float64, error) { return s.comeAndGo(1) })
}

// comeAndGo attaches an AppVM and returns the milliseconds from the last event until its proxy answers. They are
// counted from just before the call that causes the event: who waits for the event itself is told late when the
// machine is busy, and the figure would look better than it is.
func (s *site) comeAndGo(number int) (took float64, err error) {
	vm := s.vm(number)
	time.Sleep(quiet)
	if err := s.AttachUpTo(vm, lab.Routed); err != nil {
		return 0, err
	}
	last, err := s.AttachTimed(vm, lab.Complete)
	if err != nil {
		return 0, err
	}
	err = s.from(vm, func(c caller.Caller) error {
		answered, err := c.Until(refused, isRefused)
		took = milliseconds(answered.Sub(last))
		return err
	})
	return took, errors.Join(err, s.leave(vm))
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
		err = s.from(vm, func(c caller.Caller) error {
			host := fmt.Sprintf("203.0.113.%d", last)
			if err := s.save(0, openLine, fmt.Sprintf(`^203\.0\.113\.%d$`, last)); err != nil {
				return err
			}
			saved := time.Now()
			answered, err := c.Until(host, isServed)
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
