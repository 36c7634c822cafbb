package tinyproxy

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
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
		n := rand.Uint32() // an address that no other test has; somebody else may get a port of 127.0.0.1 that was free
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 10 + byte(n)%240, byte(n >> 8), 1 + byte(n>>16)%254}), 8100)
		config := filepath.Join(t.TempDir(), "config")
		content := fmt.Sprintf("Listen %v\nPort %d\nTimeout 5\nMaxClients 5\nLogLevel Critical\n%s\n", at.Addr(), at.Port(), text)
		if err := os.WriteFile(config, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), realBinary, "-d", "-c", config)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		status := 0
		for deadline := time.Now().Add(time.Minute); status == 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: client.AsSlice()}}
			conn, err := dialer.Dial("tcp4", at.String())
			if err != nil {
				continue
			}
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			fmt.Fprint(conn, "CONNECT 127.0.0.1:1 HTTP/1.0\r\n\r\n") // where nobody listens
			status, _ = ReadStatus(conn)
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
