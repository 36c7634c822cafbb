package supervisor

import (
	"context"
	"os"
	"regexp"
	"testing"
	"time"

	"vifproxy/internal/mailbox"
	"vifproxy/internal/proxies"
)

// The daemon ends within what systemd allows, however long the firewall takes: else systemd kills it, and its proxies with it.
func TestTheEndIsBounded(t *testing.T) {
	unit, err := os.ReadFile("../packaging/vifproxyd.service")
	if err != nil {
		t.Fatal(err)
	}
	allowed := regexp.MustCompile(`(?m)^TimeoutStopSec=(\w+)$`).FindSubmatch(unit)
	if allowed == nil {
		t.Fatal("no TimeoutStopSec=")
	}
	most, err := time.ParseDuration(string(allowed[1]))
	if err != nil {
		t.Fatal(err)
	}
	const log = time.Second // for what the daemon has still to say
	if all := 2*lastSyncTimeout + proxies.StopGrace + log; all > most {
		t.Errorf("the end takes up to %v, systemd allows %v", all, most)
	}
	var told time.Time
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.connect()
		m.after(time.Minute)
		m.set(func() { m.looking, m.removing, m.ends = time.Hour, time.Hour, context.DeadlineExceeded })
		m.Wake(mailbox.Firewall) // so a check is under way too
		m.after(10 * time.Millisecond)
		told = time.Now()
		m.t.Cleanup(func() {
			if took := time.Since(told); took > 2*lastSyncTimeout {
				t.Errorf("it took %v", took)
			}
		})
	})
}
