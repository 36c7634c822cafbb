package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// What vifproxyctl says of a real firewall VM: whether all is well in it, what an AppVM's programs need, and
// what its proxy said.
func TestLookingAtTheFirewallVM(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", bank)
		s.rules("typo.10.137.0.99", bank)
		vif := s.attach("work", "10.137.0.11")
		stranger := s.attach("stranger", "10.137.0.12")
		s.start()
		s.opens("work", "http://bank.example/")
		s.refuses("work", "http://shop.example/")

		backend := map[lab.Ruleset]string{lab.R42: "nftables", lab.R41: "iptables"}[s.Ruleset]
		vm := s.show()["work"]
		if vm.Gateway != lab.Gateway.String() || vm.Seen.IsZero() || vm.Interfaces[0] != vif {
			t.Errorf("status: %+v", vm)
		}
		user := map[int]string{0: "as root\n"}[s.user]
		s.says("doctor", cmp.Or(user, fmt.Sprintf("as uid %d, not as root\n", s.user)), "ok     firewall     "+backend+": everything is in place\n",
			"ok     AppVMs       2 connected, 1 of them with a rule file\n",
			"note   AppVMs       10.137.0.12 on "+stranger+" has no rule file, and so no proxy\n",
			"note   AppVMs       typo (10.137.0.99) was not connected since vifproxyd started",
			"ok     netvm        ")

		// The variables make programs in the AppVM use its proxy, for both kinds of sites.
		variables, _, _ := s.ctl("client", "work")
		file := filepath.Join(s.dir, "env")
		s.must(writeFile(file, []byte(variables), 0o644))
		ca := filepath.Join(s.dir, "ca")
		s.must(writeFile(ca, s.CA, 0o644))
		for _, page := range []string{"http://bank.example/", "https://bank.example/"} {
			out, err := s.VMCommand(t.Context(), "work", "sh", "-ec",
				"set -a; . "+file+"; exec curl --silent --show-error --cacert "+ca+" "+page).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "hello from") {
				t.Errorf("%s: %v: %s", page, err, out)
			}
		}

		s.says("log work", `Proxying refused on filtered domain "shop.example"`)

		s.crash()
		s.must(os.Chmod(filepath.Join(s.rulesDir(), "typo.10.137.0.99"), 0o600))
		s.says("doctor --rules-dir="+s.rulesDir(), "typo.10.137.0.99: only its owner may read it", "wrong  daemon       vifproxyd is not running",
			"note   firewall     rules that a vifproxyd has left: ",
			"ok     rules        "+s.rulesDir()+": 2 rule files can be read\n")
		s.start()
		s.opens("work", "http://bank.example/")
		s.detach("work")
		if vm := s.untilState("work", control.Waiting); vm.Seen.IsZero() || vm.Gateway != "" {
			t.Errorf("status of one that was connected: %+v", vm)
		}
		s.stop()
	})
}

// says waits until a verb, in the firewall VM, prints these texts.
func (s *site) says(verb string, texts ...string) {
	s.Helper()
	s.until(fmt.Sprintf("%s says so", verb), func() error {
		args := append([]string{"--socket=" + s.socket()}, strings.Fields(verb)...)
		out, err := s.Command(s.Context(), filepath.Join(programs, "vifproxyctl"), args...).CombinedOutput()
		for _, text := range texts {
			if !strings.Contains(string(out), text) {
				return fmt.Errorf("no %q in\n%s%v", text, out, err)
			}
		}
		return nil
	})
}
