package firewall

// Forward says by which interfaces what AppVMs send is not forwarded, as far as the chains of hook forward decide that by the
// interface. A tunnel with a kill switch is such a case: `oifname "eth0" drop`.
//
// It is read for one purpose: a proxy is not to leave where its AppVM could not. So it errs to one side. A rule counts if it may
// concern AppVMs; what would let them pass before it counts only if it certainly does. Rules that do not ask for the
// interface do not count: to forward nothing at all is how AppVMs are given their proxy and nothing else.
type Forward struct {
	Barred []Bar // of the interfaces that are there or named in a rule, but for loopback and vifs
	Open   []string
	Others string // the rule that bars all interfaces but Open; "" if there is none
	Unread string // what could not be looked at; "" if nothing
}

// Bar is an interface with the rule that bars it.
type Bar struct {
	Interface string
	Rule      string // such as "table ip qubes, chain custom-forward, rule 2"
}
