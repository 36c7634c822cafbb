package control

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNotRunning(t *testing.T) {
	dir := openDir(t)
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	file := filepath.Join(dir, "file")
	write(t, file)
	for socket, why := range map[string]string{
		filepath.Join(dir, "none"):      "no such file or directory",
		filepath.Join(dir, "none/none"): "no such file or directory",
		stale:                           "connection refused",
		file:                            "connection refused",
	} {
		_, err := NewClient(socket).Status(t.Context())
		var notRunning *NotRunningError
		want := "vifproxyd is not running (" + socket + ": " + why + "): start it with `systemctl start vifproxyd`"
		if !errors.As(err, &notRunning) || err.Error() != want {
			t.Errorf("got  %v\nwant %v", err, want)
		}
	}
}

func TestPathThatCannotBeASocket(t *testing.T) {
	for socket, why := range map[string]string{
		"/" + strings.Repeat("x", 200): "invalid argument",
		os.Args[0] + "/s":              "not a directory",
	} {
		_, err := NewClient(socket).Update(t.Context())
		if err == nil || !strings.Contains(err.Error(), "connect to vifproxyd: ") || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", socket, err)
		}
	}
}

// show must not hang when the daemon does.
func TestStatusGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient("")
		c.http.Transport = silence{}
		began := time.Now()
		_, err := c.Status(t.Context())
		if err == nil || err.Error() != "vifproxyd has not answered for 10s: see `journalctl -u vifproxyd`" {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != statusTimeout {
			t.Errorf("after %v", waited)
		}
	})
}

// A person who stops an AppVM is told when the daemon hangs, and waits for one that is busy.
func TestVerbsGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient("")
		c.http.Transport = silence{}
		_, err := c.Stop(t.Context(), []string{"work"})
		if !errors.Is(err, errHangs) || !strings.HasSuffix(err.Error(), "(it may still do what it was asked)") {
			t.Errorf("of a daemon that hangs: %v", err)
		}
		c.http.Transport = busy(5 * statusTimeout)
		if _, err := c.Stop(t.Context(), []string{"work"}); err != nil {
			t.Errorf("of one that is busy: %v", err)
		}
	})
}

// busy is a daemon that answers after this time, but says at once how things stand.
type busy time.Duration

func (b busy) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path != "/v1/appvms" {
		select {
		case <-time.After(time.Duration(b)):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("{}"))}, nil
}

// silence is a daemon that takes a request and says nothing.
type silence struct{}

func (silence) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}
