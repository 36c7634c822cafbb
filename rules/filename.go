package rules

import (
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"

	"vifproxy/rules/flaws"
)

// What follows the name decides whether a file means to be a rule file at all: four dot-separated numbers do.
// Whether they make an address is then a matter of right or wrong, not of being ignored in silence.
var looksLikeRuleFile = regexp.MustCompile(`(?s)^(?:(.*)\.)?([0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)$`)

// The names Qubes gives to VMs: validate_name in qubes-core-admin, qubes/vm/__init__.py.
var vmName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,30}$`)

// ParseFileName reads the last element of a path in the rule directory, NAME.A.B.C.D: the name and the
// address of the AppVM that the file is for. The name may contain dots itself.
//
// A name that is no rule file's ("config", hidden files, editors' backups such as "x.10.137.2.13~") gives an
// invalid address and no error. One that looks like a rule file's but is wrong gives an *Error, and as much
// of name and address as could be read.
func ParseFileName(path string) (name string, addr netip.Addr, err error) {
	base := filepath.Base(path)
	if strings.HasPrefix(base, ".") {
		return "", netip.Addr{}, nil
	}
	if name, addr, ok := splitIPv6(base); ok {
		return name, addr, wrong(path, 0, "IPv6 addresses are not supported yet",
			"name the file NAME.A.B.C.D after the VM's IPv4 address")
	}
	match := looksLikeRuleFile.FindStringSubmatch(base)
	if match == nil {
		return "", netip.Addr{}, nil
	}
	if vmName.MatchString(match[1]) {
		name = match[1]
	}
	addr, parseErr := netip.ParseAddr(match[2])
	switch {
	case match[1] == "":
		return "", addr, wrong(path, 0, "has an address for a name, and no VM's name before it",
			"name it like banking."+match[2])
	case name == "":
		return "", addr, wrong(path, 0, flaws.Excerpt(match[1])+" is not a VM name",
			"a name is a letter and then up to 30 letters, digits, '_', '-' or '.'")
	case parseErr != nil:
		return name, netip.Addr{}, wrong(path, 0, flaws.Excerpt(match[2])+" is not an IPv4 address",
			"write four numbers from 0 to 255 without leading zeros")
	}
	return name, addr, nil
}

// splitIPv6 finds an IPv6 address after any dot: such an address may itself end in a dotted quad.
func splitIPv6(base string) (name string, addr netip.Addr, ok bool) {
	for i := range len(base) {
		if base[i] != '.' {
			continue
		}
		if addr, err := netip.ParseAddr(base[i+1:]); err == nil && addr.Is6() {
			if vmName.MatchString(base[:i]) {
				name = base[:i]
			}
			return name, addr.WithZone(""), true
		}
	}
	return "", netip.Addr{}, false
}
