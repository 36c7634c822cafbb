package main

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/await"
)

// TestBootTime compares it with what the kernel says elsewhere, and has the alarm of that clock go off.
func TestBootTime(t *testing.T) {
	before := bootTime()
	text, err := os.ReadFile("/proc/uptime") // counts suspends too (uptime_proc_show in Linux' fs/proc/uptime.c)
	if err != nil {
		t.Fatal(err)
	}
	seconds, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	if told := time.Duration(seconds * float64(time.Second)); told < before-time.Second || told > bootTime()+time.Second {
		t.Errorf("it is %v before and %v after, and the kernel says %v", before, bootTime(), told)
	}
	a, err := newAlarm()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	woken := make(chan time.Duration)
	ended := make(chan bool)
	go func() {
		a.run(ctx, func() {
			select {
			case woken <- bootTime():
			case <-ctx.Done():
			}
		})
		close(ended)
	}()
	for _, at := range []time.Duration{bootTime() + 20*time.Millisecond, 1} { // or long ago, as at the end of a suspend
		a.set(bootTime() + time.Hour) // which does not count any more
		a.set(at)
		if got := await.Value(t, "the end of a sleep", woken); got < at {
			t.Errorf("%v too early", at-got)
		}
	}
	cancel()
	<-ended
	a.set(1) // and nobody minds
}
