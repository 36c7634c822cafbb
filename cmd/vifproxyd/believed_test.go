package main

import (
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// What of the files of an administrator is believed, and when.

// whiteList is a template that is complete.
const whiteList = "Listen {bind_ip}\nPort {port}\nAllow {vm_ip}\nFilter \"{rules_file}\"\nFilterDefaultDeny Yes\nMaxClients 20\n"

func TestTemplateHasToSayWhetherListsAreWhite(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.pair()
	work := s.show()["work"]
	s.rules("config", strings.Split(strings.Replace(whiteList, "FilterDefaultDeny Yes\n", "", 1), "\n")...)
	s.told("work", control.Running, "DIR/rules/config: FilterDefaultDeny is not said (write FilterDefaultDeny Yes for white "+
		"lists: hosts pass that a rule file names; or FilterDefaultDeny No for black lists: all others pass)")
	s.undisturbed(work, "http://bank.example/")
	s.refuses("work", "http://shop.example/")

	s.rules("config", strings.Split(strings.Replace(whiteList, "Yes", "No", 1), "\n")...)
	s.opens("work", "http://shop.example/")
	s.says("doctor", "black lists: FilterDefaultDeny No lets these VMs reach all hosts but those in their rule files: play, work")
	if vm := s.show()["work"]; vm.List != control.Black {
		s.Errorf("show says of a black list: %+v", vm)
	}
	if table, _, _ := s.ctl("show"); !strings.Contains(table, "black list: it reaches all hosts but those in its rule file") {
		s.Errorf("show:\n%s", table)
	}
	s.stop()
}
