package supervisor

import (
	"testing"
	"time"

	"vifproxy/internal/mailbox"
)

// A sandbox knows the files that were there when it was made. When one is replaced, new processes take over, and those that there are
// finish their connections.
func TestPlacesThatSandboxesDependOn(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.places = " elsewhere" })
		m.Wake(mailbox.Resolvers)
		m.expect(m.after(quietPeriod/2), "")
		m.expect(m.after(time.Second), "start social (10.137.0.1) at 10.138.1.1: a :2\n"+
			"unbind vif1.0 10.137.0.1 :1\nbind vif1.0 10.137.0.1 :2")

		// A directory that is taken away and made again at once was never anywhere else.
		m.set(func() { m.places = "" })
		m.Wake(mailbox.Resolvers)
		m.after(quietPeriodMax / 2)
		m.set(func() { m.places = " elsewhere" })
		m.Wake(mailbox.Resolvers)
		m.expect(m.after(time.Second), "")

		// The last good one is replaced as well.
		m.file("social.10.137.0.1", "not good")
		m.after(time.Second)
		m.set(func() { m.places = " back" })
		m.Wake(mailbox.Resolvers)
		m.expect(m.after(time.Second), "start social (10.137.0.1) at 10.138.1.1: a :3\n"+
			"unbind vif1.0 10.137.0.1 :2\nbind vif1.0 10.137.0.1 :3")
	})
}
