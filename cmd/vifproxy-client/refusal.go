package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"vifproxy/rules/hostname"
)

// A target is what the list of this AppVM would have to permit.
type target struct {
	Host string `json:"host"` // as hostname.Canonical returns it, so that no character of it is special anywhere
	Port uint16 `json:"port"` // 0: one that is always open
}

// A refusal is a request that the list does not permit.
type refusal struct {
	target
	site string // the host, or a name above it that belongs to the same owner
}

// usualPorts are open for each host of a list, so a request for the host alone permits them.
var usualPorts = map[uint16]bool{80: true, 443: true}

// parse reads one line of the service vifproxy.Denied. All of it is hostile: web sites choose the hosts.
func parse(line []byte) (refusal, error) {
	var wire struct {
		Host, Site string
		Port       uint16
	}
	if err := json.Unmarshal(line, &wire); err != nil {
		return refusal{}, err
	}
	t, err := newTarget(wire.Host, wire.Port)
	if err != nil {
		return refusal{}, err
	}
	return refusal{t, siteOf(t.Host, wire.Site)}, nil
}

// newTarget returns the target of a host and a port, if there is such a host.
func newTarget(host string, port uint16) (target, error) {
	name, flaw := hostname.Canonical(strings.TrimSpace(host))
	if flaw != nil {
		return target{}, flaw
	}
	if strings.HasPrefix(name, "*") {
		return target{}, fmt.Errorf("%s is no host: name one", name)
	}
	if usualPorts[port] {
		port = 0
	}
	return target{name, port}, nil
}

// siteOf returns the site that a host is shown with. One that the host does not belong to, or that belongs to too many people, would
// show it as somebody else's.
func siteOf(host, site string) string {
	name, flaw := hostname.Canonical(site)
	_, err := netip.ParseAddr(host)
	if flaw != nil || err == nil || !strings.HasSuffix(host, "."+name) || !strings.Contains(name, ".") || hostname.TooWide(name) {
		return host
	}
	return name
}

func (t target) String() string {
	if t.Port == 0 {
		return t.Host
	}
	return fmt.Sprintf("%s:%d", t.Host, t.Port)
}

// service returns the service that permits the target, with its argument. dom0 permits letters, digits, and "-._+" in arguments.
func (t target) service(always bool) string {
	name := "vifproxy.Allow+"
	if always {
		name = "vifproxy.AllowAlways+"
	}
	if t.Port == 0 {
		return name + t.Host
	}
	return fmt.Sprintf("%s%s+%d", name, t.Host, t.Port)
}

func (t target) compare(other target) int {
	return cmp.Or(cmp.Compare(t.Host, other.Host), cmp.Compare(t.Port, other.Port))
}
