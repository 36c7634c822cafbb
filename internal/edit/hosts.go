package edit

import (
	"fmt"
	"net"
	"strings"

	"vifproxy/rules"
)

// A Target is a host that a person wants to allow or to deny, and the request that tries it.
type Target struct {
	rules.Host
	Request string // the URL without its path, or the host and its port
}

// Targets reads hosts as people have them at hand. With subdomains, the names below each name belong to it.
func Targets(texts []string, subdomains bool) (all []Target, err error) {
	for _, text := range texts {
		if strings.Trim(text, "*.") == "" {
			return nil, fmt.Errorf("%q is every host: name those that are needed", text)
		}
		if strings.Contains(text, ",") {
			return nil, fmt.Errorf("%q: separate hosts by spaces", text)
		}
		host, err := rules.ParseHost(text)
		if meant := rules.NamesMeant(text); err != nil && len(meant) > 0 {
			return nil, fmt.Errorf("%s is not a host name: write %s", text, strings.Join(meant, " "))
		}
		if err != nil {
			return nil, err
		}
		all = append(all, Target{host, requestFor(text, host)})
		if subdomains && !host.Below && !host.IsAddr() {
			host.Below = true
			all = append(all, Target{host, requestFor(text, host)})
		}
	}
	return all, nil
}

// requestFor returns the request that tries a host that a person gave as text.
func requestFor(text string, h rules.Host) string {
	name := h.Name
	if h.Below {
		name = "any." + name
	}
	if h.Port != 0 {
		name = fmt.Sprintf("%s:%d", name, h.Port)
	}
	scheme, _, isURL := strings.Cut(text, "://")
	if scheme = strings.ToLower(scheme); isURL && (scheme != "https" || h.Port == 80) {
		name = scheme + "://" + name + "/"
	}
	return name
}

// OwnObjection says that a host is an address of this VM, to which the fence lets no proxy connect; "" if it is not.
func OwnObjection(host rules.Host) string {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return "" // the explanation says it, when the line is written
	}
	for _, addr := range own {
		if network, ok := addr.(*net.IPNet); ok && network.IP.String() == host.Name {
			return host.Name + " is an address of the firewall VM itself, where no proxy leads; name the host that is meant"
		}
	}
	return ""
}
