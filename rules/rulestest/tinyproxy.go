// Package rulestest asks a real tinyproxy what lines match. Only tests use it.
package rulestest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vifproxy/internal/sockdiag"
	"vifproxy/rules/expression"
)

// Directives returns what a template says for lines to be read so.
func Directives(l expression.Language, caseSensitive bool) string {
	text := map[expression.Language]string{expression.Extended: "FilterExtended On\n", expression.Fnmatch: "FilterType fnmatch\n"}[l]
	if caseSensitive {
		text += "FilterCaseSensitive On\n"
	}
	return text
}

// A Proxy is a real, running tinyproxy on a loopback port. What it permits goes to an upstream proxy of the
// test that says 200 to everything, so that no name is ever looked up; what it refuses is 403.
type Proxy struct {
	tb   testing.TB
	addr string
	Log  string // its log file
	PID  int
}

// Values are what a configuration is made for; see rules.Values.
type Values struct {
	Port                        uint16
	VMIP, BindIP                netip.Addr
	LogFile, PidFile, RulesFile string
}

// Start runs tinyproxy with the configuration that render returns until the test ends. The error tells how tinyproxy ended.
func Start(tb testing.TB, render func(Values) string, filter []byte) (*Proxy, error) {
	tb.Helper()
	dir := tb.TempDir()
	upstream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	answered := make(chan struct{})
	go func() {
		answer200(upstream)
		close(answered)
	}()
	tb.Cleanup(func() {
		upstream.Close()
		<-answered
	})
	// A loopback address of its own: a port that was free on 127.0.0.1 may be somebody else's a moment later.
	n := rand.Uint32()
	bind := netip.AddrFrom4([4]byte{127, 1 + byte(n)%254, byte(n >> 8), 1 + byte(n>>16)%254})
	values := Values{
		Port:      8100,
		VMIP:      netip.MustParseAddr("127.0.0.1"), // the source of what is sent to any loopback address
		BindIP:    bind,
		LogFile:   filepath.Join(dir, "log"),
		PidFile:   filepath.Join(dir, "pid"),
		RulesFile: filepath.Join(dir, "rules"),
	}
	config := render(values) + fmt.Sprintf("Upstream http %s\n", upstream.Addr())
	files := map[string][]byte{values.RulesFile: filter, filepath.Join(dir, "config"): []byte(config)}
	for path, content := range files {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	var output bytes.Buffer
	cmd := exec.Command("tinyproxy", "-d", "-c", filepath.Join(dir, "config"))
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // tinyproxy 1.10 has children
		Pdeathsig: syscall.SIGKILL, // go test ends its fuzzing processes without a cleanup
	}
	// The signal comes when the thread ends that has started tinyproxy (prctl(2)), and some threads of a test end before it does. So
	// this one is nobody else's, and ends with tinyproxy.
	started, over := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		started <- cmd.Start()
		<-over
	}()
	if err := <-started; err != nil {
		close(over)
		tb.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		ended <- cmd.Wait()
		close(ended)
	}()
	tb.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		for range ended {
		}
		close(over)
	})
	for late := time.Now().Add(time.Minute); ; {
		select {
		case err := <-ended:
			return nil, fmt.Errorf("tinyproxy: %w: %s", err, output.Bytes())
		default:
		}
		// A connection would tell nothing: another test's tinyproxy may listen at that port of all addresses.
		at := netip.AddrPortFrom(bind, values.Port)
		if s, err := sockdiag.Listener(at); err != nil {
			tb.Fatal(err)
		} else if s != nil && s.Local == at {
			return &Proxy{tb, at.String(), values.LogFile, cmd.Process.Pid}, nil
		} else if time.Now().After(late) {
			tb.Fatal("tinyproxy has not listened for a minute")
		}
		time.Sleep(time.Millisecond)
	}
}

func answer200(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		request := bufio.NewReader(conn)
		for line := "-"; strings.Trim(line, "\r\n") != ""; {
			if line, err = request.ReadString('\n'); err != nil {
				break
			}
		}
		_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
		conn.Close()
	}
}

// Status sends a request and returns the status of the answer.
func (p *Proxy) Status(method, url string) int {
	p.tb.Helper()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(conn, "%s %s HTTP/1.0\r\n\r\n", method, url)
	answer, err := bufio.NewReader(conn).ReadString('\n')
	words := strings.Fields(answer)
	if len(words) < 2 {
		p.tb.Fatalf("%s %s: answer %q, %v", method, url, answer, err)
	}
	status, err := strconv.Atoi(words[1])
	if err != nil {
		p.tb.Fatalf("%s %s: answer %q", method, url, answer)
	}
	return status
}

// Permits reports whether the proxy lets a request for the host pass.
func (p *Proxy) Permits(host string) bool {
	p.tb.Helper()
	switch status := p.Status("GET", "http://"+host+"/"); status {
	case 200:
		return true
	case 403:
		return false
	default:
		p.tb.Fatalf("host %q: status %d", host, status)
		return false
	}
}
