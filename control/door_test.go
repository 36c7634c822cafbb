package control

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestFullSocketIsTold has one line of the log for many connections that are turned away, and another one a minute later.
func TestFullSocketIsTold(t *testing.T) {
	var said strings.Builder
	d := &door{log: slog.New(slog.NewTextHandler(&said, nil)), inside: map[uint32]int32{0: 1, 7: 2}}
	begin := time.Now()
	for second := range 61 {
		d.tell(peer{pid: 5, uid: 7}, begin.Add(time.Duration(second)*time.Second))
	}
	if n := strings.Count(said.String(), "no room for one more connection: turned away\" uid=7 pid=5 count=3\n"); n != 2 {
		t.Errorf("%d lines:\n%s", n, said.String())
	}
}
