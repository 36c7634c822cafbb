package main

import (
	"context"
	"fmt"
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
