package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/await"
)

// ceiling writes the ceiling as an editor does, and returns the option that names it.
func (s *site) ceiling(lines ...string) string {
	s.Helper()
	path := filepath.Join(s.dir, "ceiling")
	temp := path + ".new"
	s.must(writeFile(temp, []byte(strings.Join(append(lines, ""), "\n")), 0o644))
	s.must(os.Rename(temp, path))
	return "--ceiling=" + path
}

// No list goes beyond the ceiling, wherever it is. A list that does is refused, and its AppVM keeps the last good one as far as the ceiling
// admits that.
func TestCeiling(t *testing.T) {
	onBoth(t, func(s *site) {
		d, qubesDB := s.qubesDB()
		option := s.ceiling("#: format domains", "bank.example", "shop.example", "echo.example")
		s.rules("work.10.137.22.2", "#: format domains", "bank.example")
		s.rules("play.10.137.22.3", "#: format domains", "shop.example")
		s.rules("disp.10.137.22.128_25", "#: format domains", "*.example")
		d.Write("/vm-config/vifproxy.vault.10.137.22.4", "*.bank.example")
		s.attach("work", "10.137.22.2")
		s.attach("play", "10.137.22.3")
		s.attach("vault", "10.137.22.4")
		s.attach("disp", "10.137.22.130")
		s.start(option, qubesDB)
		s.opens("work", "http://bank.example/")
		s.opens("play", "http://shop.example/")
		play := s.show()["play"]
		for name, want := range map[string]string{
			"vault":              `/vm-config/vifproxy.vault.10.137.22.4:1: "*.bank.example" admits a.bank.example, and the ceiling DIR/ceiling does not`,
			"disp-10.137.22.130": `DIR/rules/disp.10.137.22.128_25:2: "*.example" admits a.example, and the ceiling DIR/ceiling does not`,
		} {
			if vm := s.untilState(name, control.Refused); !strings.Contains(s.plain(vm.Error), want) {
				s.Errorf("%s: %s\nwant %s", name, s.plain(vm.Error), want)
			}
		}
		for _, vm := range []string{"vault", "disp"} {
			if err := s.cutOff(vm); err != nil {
				s.Errorf("%s: %v", vm, err)
			}
		}

		// An edit beyond the ceiling is refused, and what allow would write as well.
		file := "DIR/rules/work.10.137.22.2"
		s.rules("work.10.137.22.2", "#: format domains", "bank.example", "nobody.example")
		s.told("work", control.Running, file+`:3: "nobody.example" admits nobody.example, and the ceiling DIR/ceiling does not (write what is narrower, or widen the ceiling)`)
		s.opens("work", "http://bank.example/")
		s.rules("work.10.137.22.2", "#: format domains", "bank.example", "echo.example")
		s.ctl("update") // which fails because of vault
		for _, args := range [][]string{{"allow", "work", "nobody.example"}, {"allow", "work", "nobody.example", "--for=1h"}} {
			if said := s.plain(s.on(1, args...)); !strings.Contains(said, "nobody.example is beyond the ceiling DIR/ceiling: widen that first") {
				s.Errorf("%v: %s", args, said)
			}
		}
		if said := s.plain(s.on(1, "allow", "work", "bank.example:9999")); !strings.Contains(said, "port 9999 is not open by the ceiling DIR/ceiling: widen that first") {
			s.Errorf("a port: %s", said)
		}
		if said := s.plain(s.on(1, "explain", "work", "nobody.example")); !strings.Contains(said, "none by the rule file: nobody.example is beyond the ceiling DIR/ceiling") {
			s.Errorf("explain: %s", said)
		}
		s.refuses("work", "http://nobody.example/", "http://shop.example/")
		s.deniedOne("work", "shop.example")
		if said := s.plain(s.on(0, "denied", "work", "--pick")); !strings.Contains(said, "nobody.example is beyond the ceiling DIR/ceiling: widen that first") {
			s.Errorf("denied --pick: %s", said)
		}
		if said := s.plain(s.on(2, "denied", "work", "--accept=nobody.example")); !strings.Contains(said, "nobody.example is beyond the ceiling DIR/ceiling: widen that first") {
			s.Errorf("denied --accept: %s", said)
		}
		for _, service := range []string{"vifproxy.Allow", "vifproxy.AllowAlways"} {
			if said, status := s.calls("work", service, "nobody.example"); status != 1 || !strings.HasPrefix(said, "no: the list of work cannot be changed like this") {
				s.Errorf("%s: %d, %s", service, status, said)
			}
		}
		s.on(0, "allow", "work", "shop.example", "--for=1h")
		s.opens("work", "http://shop.example/")
		if said := s.plain(s.on(1, "doctor")); !strings.Contains(said, "no list goes beyond the ceiling DIR/ceiling") || !strings.Contains(said, "vifproxy.vault.10.137.22.4:1: ") {
			s.Errorf("doctor: %s", said)
		}

		// A lower ceiling takes away at once: of a list, of what is allowed for a time, and of the last good list.
		tunnel := s.tunnel("work", "echo.example:443")
		s.ceiling("#: format domains", "bank.example", "shop.example")
		s.cut(tunnel)
		s.goes("work", "http://echo.example/")
		s.opens("work", "http://bank.example/", "http://shop.example/")
		if vm := s.show()["work"]; vm.State != control.Running || !strings.Contains(s.plain(vm.Error), file+`:3: "echo.example" admits echo.example`) {
			s.Errorf("%+v", vm)
		}
		s.ceiling("#: format domains", "shop.example")
		s.goes("work", "http://bank.example/")
		s.opens("work", "http://shop.example/")
		s.undisturbed(play, "http://shop.example/")

		// A ceiling that cannot be read opens nothing, and closes nothing that it admitted.
		for _, broken := range []func(){
			func() { s.ceiling("#: format domains", "*.example", "bank example") },
			func() { s.must(os.Remove(strings.TrimPrefix(option, "--ceiling="))) },
		} {
			broken()
			s.rules("work.10.137.22.2", "#: format domains", "shop.example", "bank.example")
			s.untilError("play", "DIR/ceiling")
			s.undisturbed(play, "http://shop.example/")
			s.refuses("work", "http://bank.example/")
			s.rules("new.10.137.22.5", "#: format domains", "shop.example")
			s.attach("new", "10.137.22.5")
			s.untilState("new", control.Refused)
			if err := s.cutOff("new"); err != nil {
				s.Error(err)
			}
			s.detach("new")
			s.removeRules("new.10.137.22.5")
		}

		// A wider one gives back, and nobody whose list it admitted before notices.
		s.ceiling("#: format domains", "*.example")
		s.opens("work", "http://bank.example/", "http://shop.example/")
		s.opens("disp", "http://bank.example/")
		s.undisturbed(play, "http://shop.example/")
		s.stop()

		// Without a ceiling that can be read, nobody begins.
		s.ceiling("#: format dmains")
		s.start(option, qubesDB)
		s.untilError("play", "DIR/ceiling:1: ")
		if err := s.cutOff("play"); err != nil {
			s.Error(err)
		}
		s.stop()
	})
}

// untilError waits until show says of an AppVM that something is wrong, in these words.
func (s *site) untilError(vm, words string) {
	s.Helper()
	await.Success(s.T, "show says of "+vm+": "+words, func() error {
		if row := s.show()[vm]; !strings.Contains(s.plain(row.Error), words) {
			return fmt.Errorf("%+v", row)
		}
		return nil
	})
}
