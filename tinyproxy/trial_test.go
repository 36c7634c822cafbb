package tinyproxy

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What Admits says of a configuration is what a real tinyproxy does with a client.
func TestAdmitsAgreesWithTinyproxy(t *testing.T) {
	client := netip.MustParseAddr("127.9.8.7")
	for _, text := range []string{
		"", "Allow 127.9.8.7", "Allow 127.9.8.8", "Deny 127.9.8.7", "Deny 127.9.8.8", "Allow 127.9.8.0/24", "Allow 127.9.8.7\nDeny 127.0.0.0/8",
		"Deny 127.0.0.0/8\nAllow 127.9.8.7", "allow ::1", "Deny 10.0.0.0/8\nAllow 0.0.0.0/0",
		"BasicAuth user password", "Allow 127.9.8.7\nBasicAuth user password",
	} {
		port := freePort(t)
		config := filepath.Join(t.TempDir(), "config")
		content := fmt.Sprintf("Listen 127.0.0.1\nPort %d\nTimeout 5\nMaxClients 5\nLogLevel Critical\n%s\n", port, text)
		if err := os.WriteFile(config, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), realBinary, "-d", "-c", config)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		status := 0
		for deadline := time.Now().Add(10 * time.Second); status == 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: client.AsSlice()}}
			conn, err := dialer.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				continue
			}
			fmt.Fprint(conn, "CONNECT 127.0.0.1:1 HTTP/1.0\r\n\r\n") // where nobody listens
			status, _ = readStatus(conn)
			conn.Close()
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if status == 0 {
			t.Fatalf("%q: tinyproxy does not answer", text)
		}
		ok, why := Admits(text, client)
		if refused := status == http.StatusForbidden || status == http.StatusProxyAuthRequired; ok == refused || ok != (why == "") {
			t.Errorf("%q: tinyproxy answers %d, Admits says %v, %q", text, status, ok, why)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// A trial's configuration is the AppVM's, but for who asks and, if the request is no tunnel, to which ports tunnels may go.
func TestTrialText(t *testing.T) {
	const text = "Allow 10.0.0.1\nBasicAuth a b\nConnectPort 443\nFilter \"/rules\"\nFilterURLs Yes\nLogLevel Critical\nUpstream http a:1\n"
	for _, tt := range []struct {
		method     string
		unfiltered bool
		want       string
	}{
		{"CONNECT", false, "# # ConnectPort 443 Filter \"/rules\" FilterURLs Yes # Upstream http a:1 LogLevel Info "},
		{"GET", true, "# # # # # # Upstream http a:1 LogLevel Info "},
	} {
		if got := strings.ReplaceAll(trialText(text, tt.unfiltered, tt.method), "\n", " "); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.method, got, tt.want)
		}
	}
}

// How far a request has come is what tinyproxy logs last of it.
func TestStagesOfATrial(t *testing.T) {
	h := &heard{news: make(chan struct{}, 1)}
	for _, tt := range []struct {
		line string
		want Stage
		why  string
	}{
		{"CONNECT   Nov 29 10:51:10.448 [8322]: Request (file descriptor 4): CONNECT a:443 HTTP/1.0", Asked, ""},
		{"INFO      Nov 29 10:51:10.453 [8322]: opensock: opening connection to a:443", Resolving, ""},
		{"INFO      Nov 29 10:51:10.456 [8322]: opensock: getaddrinfo returned for a:443", Opening, ""},
		{"ERROR     Nov 29 10:51:11.199 [8322]: opensock: Could not establish a connection to a:443", NoAnswer, ""},
	} {
		h.add(tt.line)
		if is, why := h.stage(); is != tt.want || why != tt.why {
			t.Errorf("after %q: %v %q", tt.line, is, why)
		}
	}
	h = &heard{news: make(chan struct{}, 1)}
	h.add("ERROR     Nov 29 10:51:12.123 [8322]: opensock: Could not retrieve address info for a:443: Name or service not known")
	h.add("WARNING   Nov 29 10:51:12.123 [8322]: Could not connect to upstream proxy.")
	if is, why := h.stage(); is != Unknown || why != "Name or service not known" {
		t.Errorf("%v %q", is, why)
	}
}
