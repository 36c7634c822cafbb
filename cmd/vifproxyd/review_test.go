package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// untilCounted waits until the daemon has counted so many requests for a host in the list of an AppVM.
func (s *site) untilCounted(vm, host string, want int) {
	s.Helper()
	s.until(fmt.Sprintf("%d requests of %s for %s are counted", want, vm, host), func() error {
		all, err := control.NewClient(s.socket()).Review(s.Context(), []string{vm})
		for _, list := range all {
			for _, l := range list.Lines {
				for _, h := range l.Hosts {
					if h.Host == host && h.Count == want {
						return nil
					}
				}
			}
		}
		return fmt.Errorf("%+v, %v", all, err)
	})
}

// command runs vifproxyctl until it ends with this exit status and says all of this, because the daemon counts beside what it serves, and
// QubesDB has a second to answer. It returns what was said.
func (s *site) command(status int, words string, texts ...string) (said string) {
	s.Helper()
	s.until(words, func() error {
		out, errs, is := s.ctl(strings.Fields(words)...)
		said = s.plain(out + errs)
		for _, text := range texts {
			if !strings.Contains(said, text) {
				return fmt.Errorf("exit status %d, no %q in\n%s", is, text, said)
			}
		}
		if is != status {
			return fmt.Errorf("exit status %d, want %d:\n%s", is, status, said)
		}
		return nil
	})
	return said
}

// A list in dom0 is reviewed like one in a file. review --fix prints the command for dom0, and when that is typed there is nothing to fix.
func TestReviewOfListsInDom0(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	d, option := s.qubesDB()
	const feature = "vm-config.vifproxy.banking.10.137.41.11"
	d.Write("/"+strings.Replace(feature, ".", "/", 1), "bank.example old.example *.news.example *.example.org")
	d.Firewall("10.137.41.12", "drop", "action=accept dsthost=bank.example proto=tcp dstports=80-80", "action=accept dsthost=old.example proto=tcp dstports=443-443", "action=drop")
	s.rules("banking.10.137.41.11", shop) // does not count
	s.attach("banking", "10.137.41.11")
	s.attach("settings", "10.137.41.12")
	s.start(option, "--qubes-firewall=on")
	s.opens("banking", "http://bank.example/", "http://www.news.example/")
	for _, host := range []string{"a.cdn.example.org", "b.cdn.example.org"} {
		s.Get("banking", "http://"+host+"/") // it passes the list, and has no address
		s.untilCounted("banking", host, 1)
	}
	s.untilCounted("banking", "bank.example", 1)
	s.untilCounted("banking", "www.news.example", 1)
	s.opens("settings", "http://bank.example/")
	s.untilCounted("vm-10.137.41.12", "bank.example", 1)

	at := "/" + strings.Replace(feature, ".", "/", 1)
	s.command(0, "review banking --after=0s", at+":2: old.example is unused: ", at+":3: *.news.example is wide: it was used for 1 host; narrower: www.news.example; ",
		at+":4: *.example.org is wide: it was used for 2 hosts; narrower: a.cdn.example.org b.cdn.example.org; then a.example.org is not permitted any more; or *.cdn.example.org, ",
		"covered or unused: 1 (`vifproxyctl review banking --fix` prints the command for dom0)", "wide: 2 (`vifproxyctl review banking --fix --narrow` prints")
	const set = "the list of banking is in dom0; in dom0: qvm-features sys-fw " + feature + " "
	s.command(1, "review banking --after=0s --fix", set+"'bank.example *.news.example *.example.org'\n")
	s.command(1, "review banking --after=0s --fix --narrow", set+"'bank.example www.news.example a.cdn.example.org b.cdn.example.org'\n")
	s.command(1, "review banking --after=0s --fix --wildcards", set+"'bank.example www.news.example *.cdn.example.org'\n")
	s.command(0, "review banking --fix", "nothing to fix: no line is covered, or unused for 14d")

	// A wide line that one host takes the place of is an edit too, though there are as many lines.
	d.Write(at, "bank.example *.news.example")
	s.goes("banking", "http://old.example/")
	s.command(1, "review banking --after=0s --fix --narrow", set+"'bank.example www.news.example'\n")
	d.Write(at, "bank.example www.news.example")
	s.goes("banking", "http://a.news.example/")
	s.command(0, "review banking --after=0s --fix --narrow", "nothing to fix")

	// Firewall settings are changed by a person, who is told which rule is not needed.
	s.command(0, "review vm-10.137.41.12 --after=0s", "old.example:443 is unused: ", "covered or unused: 1 (change the firewall settings of the AppVM in dom0)")
	s.command(1, "review vm-10.137.41.12 --after=0s --fix", "the list of vm-10.137.41.12 is its firewall settings in dom0; remove there what is for old.example:443\n")
	s.stop()
}

// The file of a range is reviewed for all its AppVMs together, whose requests are counted together.
func TestReviewOfARange(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.list("common", "#: format domains", "shop.example", "nobody.example")
	const file = "disp.10.137.42.0_24"
	s.rules(file, "#: format domains", "#: include common", "bank.example", "old.example", "*.news.example")
	s.attach("one", "10.137.42.3")
	s.attach("two", "10.137.42.4")
	s.start()
	s.opens("one", "http://bank.example/", "http://shop.example/")
	s.opens("two", "http://www.news.example/", "http://shop.example/")
	for host, count := range map[string]int{"bank.example": 1, "www.news.example": 1, "shop.example": 2} {
		s.untilCounted("disp-10.137.42.3", host, count)
	}
	want := []string{"DIR/rules/" + file + ":4: old.example is unused: ", "*.news.example is wide: it was used for 1 host; narrower: www.news.example; ",
		"nobody.example is unused: ", "; the list is included by disp-10.137.42.3, disp-10.137.42.4, so edit it yourself",
		"covered or unused: 1 (edit DIR/rules/" + file + ", which is for all AppVMs of its range)"}
	for _, vm := range []string{"disp-10.137.42.3", "disp-10.137.42.4"} {
		said := s.command(0, "review --after=0s "+vm, want...)
		if !strings.Contains(strings.Join(strings.Fields(said), " "), "2 "+time.Now().Format(time.DateOnly)+" shop.example") { // and not 4
			t.Errorf("of %s shop.example is not counted twice:\n%s", vm, said)
		}
		s.command(1, "review --after=0s --fix "+vm, "the list of "+vm+" is that of all AppVMs of its range: edit DIR/rules/"+file+" yourself")
	}
	s.command(0, "review --after=0s", "disp-10.137.42.3: counted since ", "disp-10.137.42.4: counted since ")

	// After the printed command was typed, review finds nothing.
	s.list("common", "#: format domains", "shop.example")
	s.rules(file, "#: format domains", "#: include common", "bank.example", "www.news.example")
	s.goes("two", "http://old.example/")
	s.goes("one", "http://a.news.example/")
	s.opens("two", "http://www.news.example/")
	s.untilCounted("disp-10.137.42.3", "www.news.example", 2)
	s.command(0, "review --after=0s disp-10.137.42.4", "nothing is found: each line is needed, as far as is known")
	s.stop()
}

// learn says which lines the list has in common with that of another AppVM, and the command that it names moves them. A file that does
// not count, because dom0 has a list, has nothing in common with any.
func TestLearnMentionsWhatListsHaveInCommon(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	d, option := s.qubesDB()
	lines := []string{"#: format domains", "bank.example", "echo.example"}
	s.rules("work.10.137.43.11", lines...)
	s.rules("play.10.137.43.12", append(lines, "shop.example")...)
	s.rules("old.10.137.43.13", append(lines, "shop.example", "www.news.example")...)
	d.Write("/vm-config/vifproxy.other.10.137.43.13", "echo.example")
	s.attach("work", "10.137.43.11")
	s.start(option)
	s.opens("work", "http://bank.example/")

	learn := func(pages ...string) string {
		s.Helper()
		l := s.learn("work", "--accept=all")
		s.opens("work", pages...)
		s.until("that is noted", func() error { return l.said(strings.Split(pages[0], "/")[2]) })
		s.must(l.cmd.Process.Signal(syscall.SIGINT))
		l.end(0, "added to")
		return s.plain(l.out.String() + l.errs.String())
	}
	const mention = "3 lines are in the lists of play and work: to move them to a list that all of these include, vifproxyctl review play work --share=LIST\n"
	if said := learn("http://www.news.example/"); strings.Contains(said, "in the lists of") {
		t.Errorf("two lines are in common with a list that counts, and learn says:\n%s", said)
	}
	if said := learn("http://shop.example/"); !strings.Contains(said, mention) {
		t.Errorf("no %q in\n%s", mention, said)
	}
	s.command(0, "review play work --share=office", "3 lines are in DIR/rules/lists.d/office now, which play, work include")
	for file, want := range map[string]string{"lists.d/office": "#: format domains\nbank.example\necho.example\nshop.example\n",
		"play.10.137.43.12": "#: format domains\n#: include office\n", "work.10.137.43.11": "#: format domains\n#: include office\nwww.news.example\n"} {
		if content, err := os.ReadFile(filepath.Join(s.rulesDir(), file)); err != nil || string(content) != want {
			t.Errorf("%s is %q, want %q, %v", file, content, want, err)
		}
	}
	s.opens("work", "http://bank.example/", "http://shop.example/", "http://www.news.example/")
	s.refuses("work", "http://evil.example/")
	s.stop()
}
