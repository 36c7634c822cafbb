package doctor

// switchboard says how connections get to the proxies.
func (d *doctor) switchboard() {
	if d.status == nil {
		return
	}
	const check = "switchboard"
	if s := d.status.Setup.Switchboard; s.Used {
		d.report(check, OK, "", "the kernel hands connections to the proxies, without NAT")
	} else {
		d.report(check, Note, "", "NAT leads connections to the proxies, and HTTPS pages load slower: %s", s.Why)
	}
}
