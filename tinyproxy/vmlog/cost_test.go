package vmlog

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"vifproxy/internal/events"
	"vifproxy/tinyproxy"
)

// BenchmarkRefusedLine is what a line costs when an AppVM floods.
func BenchmarkRefusedLine(b *testing.B) {
	v := New("social", Listeners{Denied: func(events.Denial) {}}, nil)
	v.Open(netip.Addr{}, b.TempDir()+"/log")
	out := Output{Log: v, Requests: tinyproxy.NewRequests(&tinyproxy.Config{}, 0, v.Denied, v.Visited)}
	line := fmt.Appendf(nil, refusedLine+"\n", "example.org")
	for b.Loop() {
		out.Write(line)
	}
	v.Close(time.Minute)
}

// BenchmarkRequest is what the lines of one request cost that is served: within the limits of the log, and beyond them.
func BenchmarkRequest(b *testing.B) {
	said := []byte(`CONNECT   Nov 30 11:00:00.123 [4711]: Connect (file descriptor 5): 10.137.0.11
CONNECT   Nov 30 11:00:00.123 [4711]: Request (file descriptor 5): GET http://www.example.org/ HTTP/1.1
INFO      Nov 30 11:00:00.123 [4711]: No upstream proxy for www.example.org
INFO      Nov 30 11:00:00.123 [4711]: opensock: opening connection to www.example.org:80
INFO      Nov 30 11:00:00.124 [4711]: opensock: getaddrinfo returned for www.example.org:80
CONNECT   Nov 30 11:00:00.124 [4711]: Established connection to host "www.example.org" using file descriptor 6.
INFO      Nov 30 11:00:00.125 [4711]: Closed connection between local client (fd:5) and remote client (fd:6)
`)
	for _, c := range []struct {
		name  string
		level tinyproxy.LogLevel
		logs  rate.Limit
	}{{"logged", "info", rate.Inf}, {"beyond", "info", logRate}, {"notice", "notice", logRate}} {
		b.Run(c.name, func(b *testing.B) {
			v := New("social", Listeners{Denied: func(events.Denial) {}, Visited: func(events.Visit) {}, Admitted: func(events.Visit) {}}, nil)
			v.lines.SetLimit(c.logs)
			v.Open(netip.Addr{}, b.TempDir()+"/log")
			requests := tinyproxy.NewRequests(&tinyproxy.Config{}, 0, v.Denied, v.Visited)
			requests.OnPass(v.Admitted)
			out := Output{Log: v, Level: c.level, Requests: requests}
			b.ReportAllocs()
			begin := times()
			for i := 0; b.Loop(); i++ {
				out.Write(said)
				if i%20 == 19 { // what is read in a turn
					v.Flush(time.Minute)
				}
			}
			b.ReportMetric(float64(times()-begin)/float64(b.N), "cpu-ns/op")
			v.Close(time.Minute)
		})
	}
}

// times returns the CPU time of this process.
func times() time.Duration {
	var used unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
