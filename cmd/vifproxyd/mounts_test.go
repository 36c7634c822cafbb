package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/internal/lab"
)

// TestMountsOverInputs: what is mounted over the rule directory, over one rule file or over resolv.conf is in force as if it had been
// written there, and what was there before when it is unmounted. Qubes' bind-dirs mount so, and programs for VPNs.
func TestMountsOverInputs(t *testing.T) {
	onBoth(t, func(s *site) {
		change := s.ownEtc()
		s.rules("work.10.137.94.11", bank, shop)
		s.must(os.Mkdir(filepath.Join(s.dir, "persistent"), 0o755))
		s.must(writeFile(filepath.Join(s.dir, "persistent", "work.10.137.94.11"), []byte(bank+"\n"), 0o644))
		s.must(writeFile(filepath.Join(s.dir, "one"), []byte(shop+"\n"), 0o644))
		s.must(writeFile(filepath.Join(s.dir, "vpn"), fmt.Appendf(nil, "nameserver %s\n", lab.OtherNameServer), 0o644))
		s.attach("work", "10.137.94.11")
		s.start()
		s.opens("work", "http://bank.example/", "http://shop.example/")
		change("mount --bind $DIR/persistent $DIR/rules")
		s.until("the directory below it counts no more", func() error { return s.refused("work", "http://shop.example/") })
		change("mount --bind $DIR/one $DIR/rules/work.10.137.94.11")
		s.until("the file below it counts no more", func() error { return s.refused("work", "http://bank.example/") })
		s.opens("work", "http://shop.example/")
		change("umount $DIR/rules/work.10.137.94.11")
		s.until("the file counts again", func() error { return s.refused("work", "http://shop.example/") })
		change("umount -l $DIR/rules")
		s.opens("work", "http://bank.example/", "http://shop.example/")
		change("mount --bind $DIR/vpn /etc/resolv.conf")
		s.until("the name server is open", func() error {
			if rules := s.ruleset(); !strings.Contains(rules, lab.OtherNameServer.String()) {
				return fmt.Errorf("it is not: %s", rules)
			}
			return nil
		})
		s.stop()
	})
}
