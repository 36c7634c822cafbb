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

// looksLikeRange is a name that ends in an address, an underscore and a number.
var looksLikeRange = regexp.MustCompile(`(?s)^(?:(.*)\.)?([0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)_([0-9]+)$`)

const (
	rangeNameMax = 15 // with a '-' and the longest address these are 31 bytes, as many as the name of a VM has
	rangeWidest  = 8  // bits, as of what a line may open
)

// ParseRangeName reads the last element of a path in the rule directory, NAME.A.B.C.D_BITS: a name, and the range of addresses whose
// AppVMs the file is for. For any other name the range is invalid and there is no error. For a name that looks like one of these but is
// wrong, the error is an *Error.
func ParseRangeName(path string) (name string, in netip.Prefix, err error) {
	base := filepath.Base(path)
	match := looksLikeRange.FindStringSubmatch(base)
	if match == nil || strings.HasPrefix(base, ".") {
		return "", netip.Prefix{}, nil
	}
	name = match[1]
	in, parseErr := netip.ParsePrefix(match[2] + "/" + match[3])
	switch {
	case !vmName.MatchString(name) || len(name) > rangeNameMax:
		return "", netip.Prefix{}, wrong(path, 0, flaws.Excerpt(name)+" cannot begin the names of AppVMs",
			"it is a letter and then up to 14 letters, digits, '_', '-' or '.', as in disp."+match[2]+"_"+match[3])
	case parseErr != nil:
		return name, netip.Prefix{}, wrong(path, 0, flaws.Excerpt(match[2]+"_"+match[3])+" is not a range of addresses",
			"write an address and the number of its bits that are the same for all, as in disp.10.138.0.0_16")
	case in.IsSingleIP():
		return name, netip.Prefix{}, wrong(path, 0, "is for one address", "name it "+name+"."+match[2])
	case in.Bits() < rangeWidest:
		return name, netip.Prefix{}, wrong(path, 0, "is for more addresses than Qubes gives to AppVMs", "write a range of /8 or narrower")
	case in != in.Masked():
		return name, netip.Prefix{}, wrong(path, 0, flaws.Excerpt(match[2])+" is not the first address of a range of "+match[3]+" bits",
			"name it "+name+"."+in.Masked().Addr().String()+"_"+match[3])
	}
	return name, in, nil
}

// isRuleFile reports whether a file is named like a rule file of one AppVM or of a range, rightly or wrongly.
func isRuleFile(path string) bool {
	_, addr, err := ParseFileName(path)
	_, in, rangeErr := ParseRangeName(path)
	return addr.IsValid() || in.IsValid() || err != nil || rangeErr != nil
}
