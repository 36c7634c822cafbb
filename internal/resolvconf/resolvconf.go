// Package resolvconf reads to which resolvers programs here send their questions for names, and remembers those that they may still
// ask.
//
// Concurrency: its functions may be called from anywhere. A Memory belongs to one goroutine.
package resolvconf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"vifproxy/internal/watchfile"
)

// Read returns the addresses that programs here send their questions for names to, in the order of
// resolv.conf(5). Where that names none, or is not there, it is the machine itself.
func Read(path string) ([]netip.Addr, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read resolvers: %w", err)
	}
	var all []netip.Addr
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(words[1]); err == nil {
			all = append(all, addr.Unmap().WithZone(""))
		}
	}
	if all == nil {
		all = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return all, nil
}

// Watch calls changed after what may have changed the files of the resolver, links followed, and once when it has
// begun, until ctx ends. Before, it calls report: with nil, or with why not all changes are told of. An error means that
// it cannot watch at all.
func Watch(ctx context.Context, files []string, changed func(), report func(error)) error {
	return watchfile.Watch{Paths: func() []string { return files }, Changed: changed, Report: report}.Run(ctx)
}
