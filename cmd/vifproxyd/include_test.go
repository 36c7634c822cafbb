package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/control"
)

// list writes a list that rule files include, as an editor does.
func (s *site) list(name string, lines ...string) {
	s.Helper()
	path := filepath.Join(s.rulesDir(), "lists.d", name)
	s.must(os.MkdirAll(filepath.Dir(path), 0o755))
	temp := filepath.Join(s.rulesDir(), ".new")
	s.must(writeFile(temp, []byte(strings.Join(append(lines, ""), "\n")), 0o644))
	s.must(os.Rename(temp, path))
}

// A change of a list is in force for all AppVMs that include it, and what is wrong with it hurts no other. These keep their last good
// rules.
func TestIncludedLists(t *testing.T) {
	onBoth(t, func(s *site) {
		const names = "#: format domains"
		s.list("common", names, "bank.example", "echo.example")
		s.list("more", names, "#: include common")
		s.rules("work.10.137.22.2", names, "#: include more")
		s.rules("play.10.137.22.3", names, "#: include common", "c.example")
		s.rules("other.10.137.22.4", "#: format domains", "shop.example")
		s.attach("work", "10.137.22.2")
		s.attach("play", "10.137.22.3")
		s.attach("other", "10.137.22.4")
		s.start()
		s.opens("work", "http://bank.example/")
		s.opens("play", "http://bank.example/")
		s.opens("other", "http://shop.example/")
		other := s.show()["other"]
		tunnels := map[string]net.Conn{"work": s.tunnel("work", "echo.example:443"), "play": s.tunnel("play", "echo.example:443")}

		// A host that is added is open for both, and cuts nothing.
		s.list("common", names, "bank.example", "echo.example", "shop.example")
		s.opens("work", "http://shop.example/")
		s.opens("play", "http://shop.example/")
		for vm, conn := range tunnels {
			if err := echoes(conn); err != nil {
				s.Errorf("the tunnel of %s: %v", vm, err)
			}
		}

		// A host that is taken away is closed for both. People are told which file has a line.
		s.list("common", names, "bank.example", "shop.example")
		for _, conn := range tunnels {
			s.cut(conn)
		}
		s.explained(0, "work", "shop.example", "permitted by "+s.rulesDir()+"/lists.d/common:3: shop.example")
		if said := s.plain(s.on(1, "deny", "work", "shop.example")); !strings.Contains(said, "nothing is removed from DIR/rules/work.10.137.22.2\n") ||
			!strings.Contains(said, "permitted by DIR/rules/lists.d/common:3: shop.example") {
			s.Errorf("deny: %s", said)
		}
		if said := s.plain(s.on(0, "allow", "work", "shop.example")); !strings.Contains(said, "nothing is added to DIR/rules/work.10.137.22.2\n") {
			s.Errorf("allow: %s", said)
		}
		if said, want := s.on(0, "export", "play"), "'bank.example shop.example c.example'\n"; !strings.HasSuffix(said, want) {
			s.Errorf("export: %s, want %s", said, want)
		}
		s.on(0, "check", "work", "play")

		// A list with a mistake, a missing one and one that somebody writes: the last good rules stay, and AppVMs that come get none.
		both := func(want string) {
			s.Helper()
			for _, vm := range []string{"work", "play"} {
				s.untilError(vm, want)
				if err := s.page(vm, "http://shop.example/"); err != nil {
					s.Errorf("%s: %v", vm, err)
				}
			}
			s.undisturbed(other, "http://shop.example/")
		}
		s.list("common", names, "bank.example", "bank example")
		both(`DIR/rules/lists.d/common:3: more than one name in "bank example"`)
		if said := s.plain(s.on(1, "check", "play")); !strings.Contains(said, "DIR/rules/lists.d/common:3:5: more than one name") {
			s.Errorf("check: %s", said)
		}
		s.rules("new.10.137.22.5", names, "#: include common")
		s.attach("new", "10.137.22.5")
		s.untilState("new", control.Refused)
		if err := s.cutOff("new"); err != nil {
			s.Error(err)
		}
		s.must(os.Rename(filepath.Join(s.rulesDir(), "lists.d"), filepath.Join(s.dir, "away")))
		s.untilError("play", "DIR/rules/play.10.137.22.3:2: there is no DIR/rules/lists.d/common")
		s.untilError("work", "DIR/rules/work.10.137.22.2:2: there is no DIR/rules/lists.d/more")
		s.must(os.Symlink(filepath.Join(s.dir, "away"), filepath.Join(s.rulesDir(), "lists.d")))
		both("DIR/rules/lists.d/common:3: ")
		file := s.open(filepath.Join("lists.d", "common"))
		both("DIR/rules/lists.d/common: is open for writing")
		fmt.Fprintf(file, "%s\nshop.example\n", names)
		both("DIR/rules/lists.d/common: is open for writing")
		s.must(file.Close())
		s.opens("new", "http://shop.example/")
		s.goes("work", "http://bank.example/")
		s.goes("play", "http://bank.example/")

		// Behind a link a list is like any other.
		elsewhere := filepath.Join(s.dir, "elsewhere")
		write := func(host string) { s.must(writeFile(elsewhere, []byte(names+"\n"+host+"\n"), 0o644)) }
		write("bank.example")
		s.must(os.Remove(filepath.Join(s.rulesDir(), "lists.d", "common")))
		s.must(os.Symlink(elsewhere, filepath.Join(s.rulesDir(), "lists.d", "common")))
		s.opens("work", "http://bank.example/")
		s.goes("play", "http://shop.example/")
		write("shop.example")
		s.opens("play", "http://shop.example/")
		s.goes("work", "http://bank.example/")

		// One that includes itself, and a list that dom0 would have included.
		s.must(os.Remove(filepath.Join(s.rulesDir(), "lists.d", "common")))
		s.list("common", names, "#: include more")
		both("a list includes itself: ")
		s.undisturbed(other, "http://shop.example/")
		s.stop()
	})
}
