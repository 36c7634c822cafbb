package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/sockdiag"
)

// greedyAnswer is more than the window of a client with little room, and less than the kernel buffers for its proxy.
const greedyAnswer = 40_000

// asks sends a request from an AppVM by a connection that has room for little of the answer.
func (s *site) asks(vm string) net.Conn {
	s.Helper()
	var conn net.Conn
	s.must(s.DoVM(vm, func() (err error) {
		d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			return errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) }), err)
		}}
		ctx, cancel := context.WithTimeout(s.Context(), patience)
		defer cancel()
		conn, err = d.DialContext(ctx, "tcp", gateway)
		return err
	}))
	s.Cleanup(func() { conn.Close() })
	_, err := io.WriteString(conn, "GET http://bank.example/long HTTP/1.0\r\nHost: bank.example\r\n\r\n")
	s.must(err)
	return conn
}

// TestClosedConnectionsThatNobodyReads: an AppVM asks for answers and takes nothing of them. When its proxy has closed these connections,
// the daemon ends them after a while. A client that reads slowly, in the same AppVM or in another one, gets all of an answer.
func TestClosedConnectionsThatNobodyReads(t *testing.T) {
	onBoth(t, func(s *site) {
		s.Serve("bank.example", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text := []byte("hello from bank.example")
			if r.URL.Path == "/long" {
				text = bytes.Repeat([]byte("x"), greedyAnswer)
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(text)))
			_, _ = w.Write(text)
		}))
		greedy := netip.MustParseAddr("10.137.26.11")
		s.rules("greedy.10.137.26.11", bank)
		s.rules("quiet.10.137.26.12", bank)
		s.attach("greedy", "10.137.26.11")
		s.attach("quiet", "10.137.26.12")
		s.start()
		s.opens("greedy", "http://bank.example/")
		s.opens("quiet", "http://bank.example/")

		gone := make(chan struct{}) // the connections that nobody reads
		var reading sync.WaitGroup
		finish := sync.OnceFunc(func() {
			close(gone)
			reading.Wait()
		})
		defer finish()
		slow := map[netip.AddrPort]bool{} // the ends of clients that read slowly
		for _, vm := range []string{"greedy", "quiet"} {
			conn := s.asks(vm)
			slow[netip.MustParseAddrPort(conn.LocalAddr().String())] = true
			reading.Go(func() {
				all, pace := 0, 250*time.Millisecond
				for buf := make([]byte, 128); ; time.Sleep(pace) {
					n, err := conn.Read(buf)
					if all += n; err == io.EOF && all > greedyAnswer {
						return
					}
					if err != nil {
						s.Errorf("%s reads slowly: %v after %d bytes", vm, err, all)
						return
					}
					select {
					case <-gone:
						pace = 0
					default:
					}
				}
			})
		}
		for range 100 {
			s.asks("greedy")
		}
		count := func() (n int) {
			s.must(s.Do(func() error {
				sockets, err := sockdiag.Closed()
				for _, c := range sockets {
					if c.Remote.Addr() == greedy && !slow[c.Remote] {
						n++
					}
				}
				return err
			}))
			return n
		}
		most := 0
		s.until("the proxy has closed connections", func() error {
			if most = max(most, count()); most < 50 {
				return fmt.Errorf("%d", most)
			}
			return nil
		})
		s.until("they are gone", func() error {
			if n := count(); n > 0 {
				return fmt.Errorf("%d of %d are left", n, most)
			}
			return nil
		})
		finish()
		s.opens("greedy", "http://bank.example/")
		s.stop()
	})
}
