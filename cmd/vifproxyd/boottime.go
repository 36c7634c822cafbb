package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// bootTime returns how long the machine has been up, suspended or not. Nobody can set that clock (clock_gettime(2)).
func bootTime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(fmt.Sprintf("CLOCK_BOOTTIME: %v", err)) // Linux has it since 2.6.39
	}
	return time.Duration(now.Nano())
}

// An alarm goes off at a boot time. Go's own timers stand still while the machine is suspended.
type alarm struct{ timer *os.File }

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	return &alarm{os.NewFile(uintptr(fd), "timerfd")}, nil
}

// set makes the alarm go off at a boot time, and no longer at the one before.
func (a *alarm) set(at time.Duration) {
	conn, err := a.timer.SyscallConn()
	if err != nil {
		return // closed: the daemon ends
	}
	_ = conn.Control(func(fd uintptr) {
		when := &unix.ItimerSpec{Value: unix.NsecToTimespec(at.Nanoseconds())}
		_ = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, when, nil)
	})
}

// run calls wake each time the alarm goes off, until ctx ends.
func (a *alarm) run(ctx context.Context, wake func()) {
	defer context.AfterFunc(ctx, func() { a.timer.Close() })()
	for times := make([]byte, 8); ; wake() {
		if _, err := a.timer.Read(times); err != nil {
			return
		}
	}
}

// watchClock calls set whenever somebody has set the wall clock, until ctx ends, and returns nil then. Before, it calls report with nil.
// Rules of dom0 end by that clock, and Go's timers do not. The kernel cancels a timer when the clock is set (timerfd_create(2),
// TFD_TIMER_CANCEL_ON_SET).
func watchClock(ctx context.Context, set func(), report func(error)) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("timerfd_create", err)
	}
	timer := os.NewFile(uintptr(fd), "timerfd")
	defer timer.Close()
	defer context.AfterFunc(ctx, func() { timer.Close() })()
	conn, err := timer.SyscallConn()
	if err != nil {
		return err
	}
	never := &unix.ItimerSpec{Value: unix.NsecToTimespec(math.MaxInt64)}
	for times := make([]byte, 8); ; set() {
		var armed error
		err = conn.Control(func(fd uintptr) {
			armed = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, never, nil)
		})
		if err = errors.Join(err, armed); err == nil {
			report(nil)
			_, err = timer.Read(times)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, unix.ECANCELED):
			return fmt.Errorf("wait until the clock is set: %w", err)
		}
	}
}
