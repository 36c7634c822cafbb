package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/sightings"
	"vifproxy/netwatch"
)

// An AppVM that is to be held because nobody has seen it for long is never served before a person says so, however fast its proxy is, and
// whether a hint or a full reading of the links tells of it.
func TestUnseenIsHeldBeforeItIsServed(t *testing.T) {
	for name, comes := range map[string]func(*machine){
		"hint":    func(m *machine) { m.link("vif1.0 10.137.0.11"); m.Hint(netwatch.Hint{Link: 1, Host: m.links[0].Addr}) },
		"reading": func(m *machine) { m.connect("vif1.0 10.137.0.11") },
	} {
		t.Run(name, func(t *testing.T) {
			record := filepath.Join(t.TempDir(), "seen")
			runAfter(t, func(m *machine) {
				now, last := time.Now().Format(time.RFC3339), time.Now().AddDate(0, 0, -40).Format(time.RFC3339)
				text := fmt.Sprintf(`{"written": %q, "lists": [{"name": "bank", "addr": "10.137.0.11", "vif": "vif9.0", "last": %q}]}`, now, last)
				if err := os.WriteFile(record, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				var err error
				if m.config.Sightings, err = sightings.Open(record); err != nil {
					t.Fatal(err)
				}
				m.config.Sightings.OnDoubt(m.Hold)
				m.delay = 0
			}, func(m *machine) {
				m.file("bank.10.137.0.11", "a")
				m.after(time.Second)
				comes(m)
				if did := m.after(time.Minute); strings.Contains(did, "bind ") {
					t.Errorf("it is served:\n%s", did)
				}
				if _, err := m.Supervisor.Start(m.ctx, []string{"bank"}); err != nil {
					t.Error(err)
				}
				if did := m.after(time.Second); !strings.Contains(did, "bind vif1.0") {
					t.Errorf("then:\n%s", did)
				}
			})
		})
	}
}
