package main

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
	"vifproxy/internal/lab"
)

// TestClockThatIsSet: rules of dom0 end by the wall clock, so when somebody sets it, the daemon reads them again.
func TestClockThatIsSet(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	d, option := s.qubesDB()
	d.Write("/vm-config/vifproxy.work.10.137.76.11", "bank.example")
	d.Write("/vm-config/vifproxy.play.10.137.76.12", "shop.example")
	s.attach("work", "10.137.76.11")
	s.start(option)
	s.opens("work", "http://bank.example/")
	s.update()
	for range 3 {
		read := make(chan struct{})
		d.Between(func() { close(read) })
		step := unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO, Time: unix.Timeval{Usec: 1000}} // in ns: no other program minds
		if _, err := unix.ClockAdjtime(unix.CLOCK_REALTIME, &step); errors.Is(err, unix.EPERM) {
			t.Skipf("this machine's clock cannot be set: %v", err)
		} else {
			s.must(err)
		}
		await.Value(t, "a reading of the lists of dom0", read)
	}
	s.opens("work", "http://bank.example/")
	s.stop()
}
