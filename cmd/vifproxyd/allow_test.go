package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/lab"
)

// on runs vifproxyctl, which must end with the status want, and returns what it says. It asks the daemon where rule files
// are, which is not the default place.
func (s *site) on(want int, args ...string) string {
	s.Helper()
	out, errs, status := s.ctl(args...)
	if status != want {
		s.Errorf("vifproxyctl %s: exit status %d, want %d:\n%s%s", strings.Join(args, " "), status, want, out, errs)
	}
	return out + errs
}

// tunnel opens a CONNECT through an AppVM's proxy and leaves it open.
func (s *site) tunnel(vm, target string) net.Conn {
	s.Helper()
	conn, err := s.Dial(s.Context(), vm, "tcp", fmt.Sprintf("%s:%d", lab.Gateway, lab.ProxyPort))
	s.must(err)
	s.Cleanup(func() { conn.Close() })
	s.must(conn.SetDeadline(time.Now().Add(patience)))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.0\r\n\r\n", target)
	buffer := make([]byte, 1024)
	n, err := conn.Read(buffer)
	s.must(err)
	if !strings.Contains(string(buffer[:n]), " 200 ") {
		s.Fatalf("CONNECT %s: %q", target, buffer[:n])
	}
	return conn
}

// cut waits until a tunnel has ended.
func (s *site) cut(conn net.Conn) {
	s.Helper()
	s.must(conn.SetDeadline(time.Now().Add(patience)))
	_, err := io.Copy(io.Discard, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.Error("the tunnel is still open")
	}
}

func TestAllowAndDeny(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", "# mine", bank)
		s.attach("work", "10.137.0.11")
		s.start()
		s.opens("work", "http://bank.example/")
		s.refuses("work", "https://shop.example/")
		if said := s.on(1, "explain", "work", "https://shop.example/"); !strings.Contains(said, "no line permits it") {
			t.Errorf("explain: %s", said)
		}

		// From a blocked page to a working one in two commands; the second is in force when it returns.
		begin := time.Now()
		s.until("the refused host is listed", func() error {
			if out, _, _ := s.ctl("denied", "work"); !strings.Contains(out, "shop.example") {
				return errors.New(out)
			}
			return nil
		})
		if said := s.on(0, "allow", "work", "https://shop.example/cart"); !strings.Contains(said, "in force after") {
			t.Errorf("allow: %s", said)
		}
		if err := s.page("work", "https://shop.example/"); err != nil {
			t.Errorf("after allow: %v", err)
		}
		t.Logf("from the blocked page to the working one: %v", time.Since(begin).Round(time.Millisecond))
		path := filepath.Join(s.rulesDir(), "work.10.137.0.11")
		if said := s.on(0, "explain", "work", "shop.example"); !strings.Contains(said, path+`:3: ^shop\.example$`) {
			t.Errorf("explain: %s", said)
		}

		// And back: at once, an open tunnel included.
		tunnel := s.tunnel("work", "shop.example:443")
		s.on(0, "deny", "work", "shop.example")
		s.refuses("work", "http://shop.example/", "https://shop.example/")
		s.cut(tunnel)
		content, err := os.ReadFile(path)
		s.must(err)
		if string(content) != "# mine\n"+bank+"\n" {
			t.Errorf("the file after allow and deny: %q", content)
		}

		// For a time: no file changes, and the tunnel ends with the time.
		s.on(0, "allow", "work", "shop.example", "--for=1h")
		tunnel = s.tunnel("work", "shop.example:443")
		s.ctl("allow", "work", "shop.example", "--for=1s") // over, maybe, when it looks whether the request passes
		s.cut(tunnel)
		s.until("the time is over", func() error {
			if r := s.Get("work", "https://shop.example/"); r.Status != 403 {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
		s.on(0, "allow", "work", "shop.example", "--for=1h")
		if said := s.on(0, "explain", "work", "shop.example"); !strings.Contains(said, "allowed for a time") {
			t.Errorf("explain: %s", said)
		}
		s.on(0, "deny", "work", "shop.example")
		s.refuses("work", "https://shop.example/")

		// What else lets a host pass is named.
		s.rules("work.10.137.0.11", `shop`)
		s.update()
		if said := s.on(1, "deny", "work", "shop.example"); !strings.Contains(said, path+":1: shop") {
			t.Errorf("deny: %s", said)
		}
		if !strings.Contains(s.daemon.log.String(), path+":1: shop: matches anywhere in a name") {
			t.Error("the daemon did not log what check would say")
		}
		s.stop()
	})
}
