// Package resolvconf reads what this machine says about names: resolv.conf(5), hosts(5) and the host name. It remembers the name servers
// that may still be asked.
//
// Concurrency: its functions may be called from anywhere. A Memory and a Reader belong to one goroutine each.
package resolvconf

import (
	"context"
	"fmt"
	"net/netip"

	"vifproxy/internal/watchfile"
)

// Read returns the addresses that programs here send their questions for names to, in the order of
// resolv.conf(5). Where that names none, or is not there, it is the machine itself.
func Read(path string) ([]netip.Addr, error) {
	text, err := read(path, confMax)
	if err != nil {
		return nil, fmt.Errorf("read resolvers: %w", err)
	}
	servers, _, _ := parseConf(text)
	return servers, nil
}

// Watch calls changed after what may have changed the files of the resolver, links followed, and once when it has
// begun, until ctx ends. Before, it calls report: with nil, or with why not all changes are told of. An error means that
// it cannot watch at all.
func Watch(ctx context.Context, files []string, changed func(), report func(error)) error {
	return watchfile.Watch{Paths: func() []string { return files }, Changed: changed, Report: report}.Run(ctx)
}
