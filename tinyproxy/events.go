package tinyproxy

import (
	"bytes"
	"net/netip"
)

// Refused says that a proxy refused a request because of its rules.
type Refused struct {
	VM   string
	Addr netip.Addr
	// Host is what the AppVM sent: a host name, or a URL where the template sets FilterURLs. What is not
	// printable is escaped (journalctl -x would give it to the terminal), so its at most 255 bytes can have
	// become 1020.
	Host string
}

// maxHost bounds what is kept of a refused host: longer than any name in the DNS.
const maxHost = 255

// refusedHost returns the host of a log line that reports a refused request, in every version
// (src/reqs.c; 1.10 has no milliseconds):
//
//	NOTICE    Nov 23 07:31:08.180 [16035]: Proxying refused on filtered domain "HOST"
//
// The line must begin so: an AppVM can get a line break into the log, by folding its Host header, but only
// one with a blank after it, and nothing of its own before "]: ". The closing quote is missing where
// tinyproxy cut the line at 798 bytes (STRING_LENGTH in src/log.c) and where HOST has that line break.
func refusedHost(line []byte) (host string, ok bool) {
	if line, ok = bytes.CutPrefix(line, []byte("NOTICE ")); !ok {
		return "", false
	}
	_, message, _ := bytes.Cut(line, []byte("]: "))
	if message, ok = bytes.CutPrefix(message, []byte("Proxying refused on filtered ")); !ok {
		return "", false
	}
	raw, ok := bytes.CutPrefix(message, []byte(`domain "`))
	if !ok {
		if raw, ok = bytes.CutPrefix(message, []byte(`url "`)); !ok {
			return "", false
		}
	}
	raw = bytes.TrimSuffix(raw, []byte(`"`))
	return string(raw[:min(len(raw), maxHost)]), true
}
