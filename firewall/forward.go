package firewall

import "slices"

// Forward says by which interfaces the firewall VM does not forward what AppVMs send, as far as the chains of hooks forward and
// postrouting decide that by the interface. A tunnel with a kill switch is such a case: `oifname "eth0" drop`.
//
// It has one purpose: a proxy must not leave where its AppVM could not. So it errs to one side. A rule that drops counts if it may
// concern AppVMs; a rule before it that lets them pass counts only if it certainly concerns them. Rules that do not ask for the
// interface do not count, because forwarding nothing at all is how AppVMs are given their proxy and nothing else.
type Forward struct {
	Barred []Bar // of the interfaces that are there or named in a rule, but for loopback and vifs
	Open   []string
	Others string // the rule that bars all interfaces but Open; "" if there is none
	Unread string // what could not be looked at; "" if nothing
}

// A Bar is an interface with the rule that bars it.
type Bar struct {
	Interface string
	Rule      string // such as "table ip qubes, chain custom-forward, rule 2"
}

// Same reports whether another Forward says the same of all interfaces.
func (f Forward) Same(other Forward) bool {
	return slices.Equal(f.Barred, other.Barred) && f.Others == other.Others && slices.Equal(f.Open, other.Open)
}

// Leave returns by which interfaces proxies may leave, none for all of them, and by which they may not. Loopback is neither.
func (f Forward) Leave() (leave, barred []string) {
	for _, b := range f.Barred {
		barred = append(barred, b.Interface)
	}
	if f.Others != "" {
		leave = append([]string{"lo"}, f.Open...) // not by an interface that comes later
	}
	return leave, barred
}
