package supervisor

import (
	"testing"
	"time"
	"unsafe"
)

// wallMoved is a time with only its reading of the wall clock moved, as a suspend does. Package time has no way to
// make one: with a monotonic reading, the first word of a Time is the seconds since 1885, shifted by 30 bits, and the
// nanoseconds. If that is so no more, the test says so.
func wallMoved(t *testing.T, from time.Time, by time.Duration) time.Time {
	t.Helper()
	moved := from
	*(*uint64)(unsafe.Pointer(&moved)) += uint64(by/time.Second) << 30
	if moved.Sub(from) != 0 || moved.Round(0).Sub(from.Round(0)) != by {
		t.Fatalf("%v, with its wall clock moved by %v, became %v: time.Time is not made as it was", from, by, moved)
	}
	return moved
}

func TestSuspendIsTold(t *testing.T) {
	before := time.Now()
	for name, test := range map[string]struct {
		before    time.Time
		runs      time.Duration // by both clocks
		suspended time.Duration // by the wall clock alone
		want      bool
	}{
		"the first round":              {time.Time{}, 0, 0, false},
		"rounds without a pause":       {before, 0, 0, false},
		"an ordinary round":            {before, 30 * time.Second, 0, false},
		"a loop that was held up":      {before, 10 * time.Minute, 0, false},
		"suspended over night":         {before, time.Second, 8 * time.Hour, true},
		"for long, in a long pause":    {before, 30 * time.Second, 6 * time.Second, true},
		"the clock put right a little": {before, 30 * time.Second, 2 * time.Second, false},
		"and back":                     {before, 30 * time.Second, -2 * time.Second, false},
		"the clock set back":           {before, 30 * time.Second, -time.Hour, false},
		"no monotonic reading":         {before.Round(0), 30 * time.Second, 8 * time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			now := wallMoved(t, before.Add(test.runs), test.suspended)
			if got := slept(test.before, now); got != test.want {
				t.Errorf("slept(%v, %v) is %t, want %t", test.before, now, got, test.want)
			}
		})
	}
}
