package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"vifproxy/internal/browsers"
	"vifproxy/internal/defaults"
	"vifproxy/qubes"
)

const (
	proxyPort    = defaults.ProxyPort
	probeTimeout = time.Second // for the gateway to take a connection, and to answer
)

// Paths of this VM's QubesDB (create_qdb_entries in qubes/vm/qubesvm.py of qubes-core-admin).
const (
	gatewayKey = "/qubes-gateway" // as dom0 shows it to this VM
	kindKey    = "/qubes-vm-type"
)

// errNoClient means that this VM uses no proxy, whatever its services are. A firewall VM has the service vifproxy because vifproxyd runs in
// it. A file in a template would come to all VMs based on it.
var errNoClient = errors.New("this VM is no AppVM")

// gateway returns the address at which the proxy is.
func gateway(ctx context.Context) (string, error) { return gatewayBy(ctx, qubes.Socket) }

// gatewayBy asks a QubesDB, which has the address before the network is up. Elsewhere it is that of the default route.
func gatewayBy(ctx context.Context, socket string) (string, error) {
	kind, err := qubes.Value(ctx, socket, kindKey)
	if err == nil && (kind == "NetVM" || kind == "ProxyVM" || kind == "TemplateVM") {
		return "", fmt.Errorf("%w but a %s", errNoClient, kind)
	}
	value, err := qubes.Value(ctx, socket, gatewayKey)
	if addr, bad := netip.ParseAddr(value); err == nil && bad == nil && addr.Is4() {
		return addr.String(), nil
	}
	table, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return "", err
	}
	return defaultRoute(string(table))
}

// defaultRoute returns the gateway of the first default route in /proc/net/route. Its numbers are in the order of the machine's bytes.
func defaultRoute(table string) (string, error) {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 8 || fields[1] != "00000000" || fields[7] != "00000000" {
			continue
		}
		number, err := hex.DecodeString(fields[2])
		if err != nil || len(number) != 4 {
			return "", fmt.Errorf("/proc/net/route has a gateway %q", fields[2])
		}
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], binary.BigEndian.Uint32(number))
		if addr := netip.AddrFrom4(b); !addr.IsUnspecified() {
			return addr.String(), nil
		}
	}
	return "", errors.New("there is no default route")
}

// answers reports whether a tinyproxy answers at the gateway. The question is no request for a host, so it serves none, refuses none,
// and has no line in `vifproxyctl denied`.
func answers(ctx context.Context, p browsers.Proxy) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", p.String())
	if err != nil {
		return false
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline) //nolint:errcheck // then the answer is awaited without one, by the proxy's own Timeout
	if _, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		return false
	}
	answer := make([]byte, lineMax)
	n, _ := conn.Read(answer)
	return strings.HasPrefix(string(answer[:n]), "HTTP/") && strings.Contains(string(answer[:n]), "tinyproxy")
}
