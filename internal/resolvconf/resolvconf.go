// Package resolvconf reads what this machine says about names: resolv.conf(5), hosts(5) and the host name. It remembers the name servers
// that may still be asked.
//
// Concurrency: its functions may be called from anywhere. A Memory and a Reader belong to one goroutine each.
package resolvconf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

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

// UnaskedRemedy is what to do about Unasked. Another program of this VM that asks there is refused at once, and asks the next one.
const UnaskedRemedy = "write the line `nameserver 127.0.0.1` into /etc/resolv.conf, as one of the first three: proxies ask vifproxy-names there"

var errUnasked = errors.New("proxies can ask for no names: without Landlock they read /etc/resolv.conf, which has name servers of IPv6 only, " +
	"and only questions by IPv4 are sent on to vifproxy-names")

// Unasked returns why proxies can ask nobody for names, although there are these name servers; nil if they can. Where they read resolv.conf
// themselves, because there is no Landlock, questions by IPv6 go nowhere.
func Unasked(servers []netip.Addr, themselves bool) error {
	if !themselves || slices.ContainsFunc(servers, netip.Addr.Is4) {
		return nil
	}
	return errUnasked
}

// Watch calls changed after what may have changed the files of the resolver, links followed, and once when it has
// begun, until ctx ends. Before, it calls report: with nil, or with why not all changes are told of. An error means that
// it cannot watch at all.
func Watch(ctx context.Context, files []string, changed func(), report func(error)) error {
	return watchfile.Watch{Paths: func() []string { return files }, Changed: changed, Report: report}.Run(ctx)
}
