package tinyproxy

import (
	"net/netip"
	"strings"
)

// Admits reports whether a configuration lets in who asks from an address and sends no password. If not, why says which
// directives do not. As check_acl in src/acl.c of 1.11 has it, the first Allow or Deny that matches decides, and if there is one
// at all, whoever none matches is denied. Those that name a host are taken not to match: tinyproxy asks name servers about them.
func Admits(text string, client netip.Addr) (ok bool, why string) {
	ok, listed, password := false, false, false
	decided := ""
	for line := range strings.Lines(text) {
		line = strings.Trim(line, " \t\v\f\r\n")
		name, arg := directive(line)
		switch name {
		case "basicauth":
			password = true
		case "allow", "deny":
			listed = true
			if decided == "" && holds(strings.Trim(arg, " \t\""), client) {
				ok, decided = name == "allow", line
			}
		}
	}
	switch {
	case listed && !ok && decided != "":
		return false, decided + " turns " + client.String() + " away"
	case listed && !ok:
		return false, "no Allow is for " + client.String()
	case password:
		return false, "BasicAuth wants a user and a password, which programs in the AppVM have to send"
	}
	return true, ""
}

// holds reports whether an argument of Allow or Deny, an address or a network, has the client in it.
func holds(network string, client netip.Addr) bool {
	if addr, err := netip.ParseAddr(network); err == nil {
		return addr.Unmap() == client
	}
	p, err := netip.ParsePrefix(network)
	return err == nil && p.Contains(client)
}
