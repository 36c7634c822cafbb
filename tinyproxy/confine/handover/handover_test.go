package handover

import (
	"reflect"
	"syscall"
	"testing"
)

// TestWhatIsSentIsRead with all descriptors, with few, and with what makes no sense.
func TestWhatIsSentIsRead(t *testing.T) {
	for _, m := range []Message{
		{UID: 0x7089000d, Limits: "7:464,6:400", Slack: 10, Argv: []string{"/usr/bin/tinyproxy", "-d", ""}, Output: 1, Ruleset: 8, Gate: 9, Calls: 10,
			Program: 11, Pass: [2]int{12, 13}},
		{Argv: []string{"x"}, Output: 4, Ruleset: -1, Gate: -1, Calls: -1, Program: -1, Pass: [2]int{-1, -1}},
	} {
		if got, ok := Decode(m.Encode()); !ok || !reflect.DeepEqual(got, m) {
			t.Errorf("sent %+v, read %+v, %v", m, got, ok)
		}
	}
	for text, fds := range map[string][]int{
		"":                          nil,
		"o\x001\x00\x000":           {1},
		"o\x001\x00\x000\x00a":      nil,
		"l\x001\x00\x000\x00a":      {1},
		"o\x00-1\x00\x000\x00a":     {1},
		"o\x001\x00\x00often\x00a":  {1},
		"ol\x001\x00\x000\x00a\x00": {1},
	} {
		if m, ok := Decode(text, fds); ok {
			t.Errorf("%q: %+v", text, m)
		}
	}
}

func TestWhatFailedIsRead(t *testing.T) {
	if errno, ok := ParseFailure(Failure(syscall.EACCES, "execute /x")); !ok || errno != syscall.EACCES {
		t.Errorf("%v %v", errno, ok)
	}
	for _, line := range []string{"", "vifproxy-confine: errno", "vifproxy-confine: errno x: y", "tinyproxy: errno 1: y"} {
		if _, ok := ParseFailure(line); ok {
			t.Errorf("%q", line)
		}
	}
}
