package doctor

// switchboard says how connections get to the proxies.
func (d *doctor) switchboard() {
	const check = "switchboard"
	if d.status == nil {
		return
	}
	switch s := d.status.Setup.Switchboard; {
	case s.Used:
		d.report(check, OK, "", "the kernel hands connections to the proxies, without NAT")
	case s.Loaded:
		d.report(check, OK, "", "NAT leads connections to the proxies: %s", s.Why)
	case s.Why != "": // a daemon of an older version says nothing
		d.report(check, Note, "", "NAT leads connections to the proxies, and the first HTTPS page of a connection takes 40 ms longer: %s", s.Why)
	}
}
