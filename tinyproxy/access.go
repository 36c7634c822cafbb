package tinyproxy

import (
	"net/netip"
	"strings"
)

// Admits reports whether a configuration serves a client at an address that sends no password. If not, why names the
// directives. As in check_acl (src/acl.c of 1.11), the first Allow or Deny that matches decides, and if there are any, a
// client that none matches is denied. An Allow or Deny that names a host counts as not matching, because tinyproxy asks name
// servers about it.
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

// holds reports whether an argument of Allow or Deny, an address or a network, includes the client.
func holds(network string, client netip.Addr) bool {
	if addr, err := netip.ParseAddr(network); err == nil {
		return addr.Unmap() == client
	}
	p, err := netip.ParsePrefix(network)
	return err == nil && p.Contains(client)
}

// isHostName reports whether an argument of Allow or Deny is a host name that tinyproxy asks for. If it begins with a dot, tinyproxy
// compares it with the name of the client's address instead.
func isHostName(arg string) bool {
	_, err := netip.ParseAddr(arg)
	return err != nil && arg != "" && arg[0] != '.' && !strings.Contains(arg, "/")
}
