package supervisor

import (
	"errors"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/pace"
)

// TestProxiesLeaveWhereAppVMsAreForwarded and nowhere else, as soon as rules say so.
func TestProxiesLeaveWhereAppVMsAreForwarded(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		told := watched(m)
		told()
		says := func(f firewall.Forward) {
			m.set(func() { m.forward = f })
			m.Wake(mailbox.Firewall)
		}
		const rule = "table ip qubes, chain custom-forward, rule 1"
		says(firewall.Forward{Barred: []firewall.Bar{{Interface: "eth0", Rule: rule}}, Open: []string{"wg0"}})
		m.expect(m.after(pace.CheckInterval), "fence barred eth0")
		m.expect(told(), "barred why="+rule+" what=eth0")
		status, err := m.Status(m.ctx)
		if err != nil || len(status.Barred) != 1 || status.Barred[0] != (control.Barred{Interface: "eth0", Rule: rule}) ||
			len(status.Problems) > 0 {
			t.Errorf("shown: %+v, %q, %v", status.Barred, status.Problems, err)
		}
		// All but one: also what comes later.
		says(firewall.Forward{Barred: []firewall.Bar{{Interface: "eth0", Rule: rule}}, Open: []string{"wg0"}, Others: rule})
		m.expect(m.after(time.Second), "fence barred eth0, leave lo, leave wg0")
		m.expect(told(), "barred why="+rule+" what=all others")

		// It cannot be read: it stays.
		m.set(func() { m.forward, m.forwardErr = firewall.Forward{}, errors.New("no netlink") })
		m.Wake(mailbox.Firewall)
		m.expect(m.after(time.Second), "")
		m.expect(told(), "trouble what=chains of hook forward err=no netlink")
		m.set(func() { m.forwardErr = nil })
		m.expect(strings.TrimSpace(m.after(time.Minute)), "fence")
		m.expect(told(), "recovered what=chains of hook forward\nnot-barred what=eth0\nnot-barred what=all others")

		// A person's word goes before.
		m.mail.Post(func(l *loop) { l.Leave = []string{"eth0"} })
		says(firewall.Forward{Barred: []firewall.Bar{{Interface: "eth0", Rule: rule}}})
		m.file("work.10.137.0.2", "a", "b")
		m.after(time.Second)
		if m.set(func() {}); m.fence != "leave eth0" {
			t.Errorf("fence %s", m.fence)
		}
		if status, _ := m.Status(m.ctx); len(status.Barred) > 0 {
			t.Errorf("shown: %+v", status.Barred)
		}
	})
}

// TestNothingStartsUntilForwardChainsAreRead: nobody knows what their rules bar.
func TestNothingStartsUntilForwardChainsAreRead(t *testing.T) {
	run(t, func(m *machine) {
		m.mail.Post(func(l *loop) { l.forward = nil })
		m.set(func() { m.forwardErr = errors.New("no netlink") })
		m.Wake(mailbox.Force)
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.expect(m.after(time.Minute), "")
		if vm := m.vm("social"); vm.State != control.Failed {
			t.Errorf("shown as %+v", vm)
		}
		m.set(func() { m.forwardErr = nil })
		if c := counted(m.after(time.Minute)); c["start"] != 1 || c["bind"] != 1 {
			t.Errorf("done: %v", c)
		}
	})
}
