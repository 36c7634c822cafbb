package main

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/events"
)

// TestAdditionsKeepTunnels: more of them than a person makes in a row, each with a tunnel through the process that it replaces, and then
// the same list in other words.
func TestAdditionsKeepTunnels(t *testing.T) {
	onBoth(t, func(s *site) {
		s.startWork()
		told := s.watch("work")
		s.untilTold(told, 0, "itself", named(events.Watching))
		lines := []string{bank, echoRule}
		s.rules("work.10.137.0.11", lines...)
		s.update()
		edit := func(lines []string) {
			t.Helper()
			before := s.show()["work"].PID
			s.rules("work.10.137.0.11", lines...)
			s.until("the edit is in force", func() error {
				if vm := s.show()["work"]; vm.PID == before || vm.State != control.Running {
					return fmt.Errorf("%+v", vm)
				}
				return nil
			})
		}
		names := []string{"#: format domains", "bank.example", "echo.example"}
		var tunnels []net.Conn
		for i := range 8 {
			tunnels = append(tunnels, s.tunnel("work", "echo.example:443"))
			lines = append(lines, fmt.Sprintf(`^a%d\.example$`, i))
			names = append(names, fmt.Sprintf("a%d.example", i))
			edit(lines)
		}
		edit(names)
		for i, conn := range tunnels {
			if err := echoes(conn); err != nil {
				t.Errorf("tunnel %d: %v", i, err)
			}
		}
		if n := len(s.proxies()); n < 9 {
			t.Errorf("%d processes, want one for each tunnel, and the one that serves", n)
		}
		_, stderr, status := s.ctl("stop", "work")
		if status != 0 || !strings.Contains(stderr, "connections cut: 8") {
			t.Errorf("stop: status %d, %q", status, stderr)
		}
		s.until("watch has told of all connections", func() error {
			cut := 0
			for _, e := range told() {
				if e.Event == "proxy-ends" {
					cut += e.Connections
				}
			}
			if cut != 8 {
				return fmt.Errorf("%d cut", cut)
			}
			return nil
		})
		s.stop()
	})
}
