package rules

import (
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"

	"vifproxy/rules/flaws"
)

// A file is meant as a rule file if its name ends in four numbers with dots between them. If the numbers are no address, the file
// is refused with a message, and not ignored in silence.
var looksLikeRuleFile = regexp.MustCompile(`(?s)^(?:(.*)\.)?([0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)$`)

// These are the names that Qubes gives to VMs: validate_name in qubes-core-admin, qubes/vm/__init__.py.
var vmName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,30}$`)

// ParseFileName reads the last element of a path in the rule directory, NAME.A.B.C.D: the name and the
// address of the AppVM that the file is for. The name may contain dots itself.
//
// For any other name, such as "config", a hidden file or an editor's backup "x.10.137.2.13~", the address is invalid and there is
// no error. For a name that looks like a rule file's but is wrong, the error is an *Error, and name and address are returned as
// far as they could be read.
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
