package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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

// useUpInotify takes all instances of inotify that the kernel lets the daemon's user have, until free is called. The kernel
// counts them by the effective uid of the thread that makes them (inotify_new_group in fs/notify/inotify/inotify_user.c).
func (s *site) useUpInotify() (free func()) {
	s.Helper()
	var taken []int
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(s.user), ^uintptr(0)); errno != 0 {
			done <- errno
			return
		}
		for {
			fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
			if err != nil {
				done <- err
				return
			}
			taken = append(taken, fd)
		}
	}()
	if err := <-done; err != unix.EMFILE {
		s.Fatalf("after %d instances: %v, want EMFILE", len(taken), err)
	}
	free = func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
		taken = nil
	}
	s.Cleanup(free)
	return free
}

// Without inotify a host that is taken from a list is out of reach within seconds, people are told, and inotify is tried
// again until there is some.
func TestNoInotifyAtTheStart(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.user = 64200 + os.Getpid()%300 // other tests have limits of their own
	s.must(os.Chown(s.dir, s.user, 0))
	free := s.useUpInotify()
	s.rules("work.10.137.0.11", bank, shop)
	s.attach("work", "10.137.0.11")
	s.start()
	s.opens("work", "http://shop.example/")
	s.says("show", "events of rule directory: ", "events of resolvers: ", "too many open files")
	s.says("doctor", "events of rule directory: ")
	if !s.daemon.hasTold("STATUS=AppVMs: 1 running; events of ") {
		s.Error("systemd was not told")
	}
	s.rules("work.10.137.0.11", bank)
	s.until("the host is out of reach", func() error { return s.refused("work", "http://shop.example/") })
	free()
	s.until("the daemon hears of changes again", func() error {
		if _, problems, _ := s.ctl("show"); strings.Contains(problems, "too many open files") {
			return fmt.Errorf("%s", problems)
		}
		return nil
	})
	s.stop()
}

// A list in a repository, with a link in the rule directory, is a list like any other.
func TestRuleFileBehindLinks(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	write := func(path string, lines ...string) {
		s.must(os.MkdirAll(filepath.Dir(filepath.Join(s.dir, path)), 0o755))
		s.must(os.WriteFile(filepath.Join(s.dir, path), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	}
	link := func(target, path string) {
		s.must(os.Symlink(target, filepath.Join(s.dir, path+".new")))
		s.must(os.Rename(filepath.Join(s.dir, path+".new"), filepath.Join(s.dir, path)))
	}
	write("v1/lists/work", bank, shop)
	link("v1", "current")
	link("../current/lists/work", "rules/work.10.137.0.11")
	s.attach("work", "10.137.0.11")
	s.start()
	s.opens("work", "http://shop.example/")
	write("v1/lists/work", bank)
	s.until("what was taken away behind the link is refused", func() error { return s.refused("work", "http://shop.example/") })
	write("v2/lists/work", shop)
	link("v2", "current")
	s.until("the link leads elsewhere", func() error { return s.refused("work", "http://bank.example/") })
	s.opens("work", "http://shop.example/")
	link("work.10.137.0.11", "rules/work.10.137.0.11")
	s.told("work", control.Running,
		"DIR/rules/work.10.137.0.11: cannot be opened: too many levels of symbolic links (make it a readable file, or remove it)")
	s.opens("work", "http://shop.example/")
	s.stop()
}

// refused reports whether a page is refused by the list.
func (s *site) refused(vm, page string) error {
	if r := s.Get(vm, page); r.Status != 403 {
		return fmt.Errorf("%+v", r)
	}
	return nil
}

// open opens a file of the rule directory for writing, as an editor or `cat >config` does, and empties it.
func (s *site) open(file string) *os.File {
	s.Helper()
	f, err := os.Create(filepath.Join(s.rulesDir(), file))
	s.must(err)
	return f
}

// A file is believed when who writes it is done, and serves nobody new before.
func TestHalfAFileIsNotBelieved(t *testing.T) {
	onBoth(t, func(s *site) {
		s.pair()
		work, play := s.show()["work"], s.show()["play"]
		const writing = "is open for writing: what it said before stays in force (close it in the program that writes it)"
		write := func(f *os.File, text string) {
			_, err := f.WriteString(text)
			s.must(err)
			s.told("work", control.Running, strings.Replace(f.Name(), s.dir, "DIR", 1)+": "+writing)
			s.undisturbed(work, "http://bank.example/")
			s.must(s.refused("work", "http://shop.example/"))
		}
		// Each piece would be a template, and one that opens everything.
		f := s.open("config")
		write(f, "Listen {bind_ip}\nPort {port}\nFilter \"{rules_file}\"\nFilterDefaultDeny No\n")
		s.rules("new.10.137.0.13", bank)
		s.attach("new", "10.137.0.13")
		s.untilState("new", control.Refused)
		s.must(s.cutOff("new"))
		write(f, "MaxClients 20\n")
		s.must(f.Truncate(0))
		_, err := f.Seek(0, 0)
		s.must(err)
		_, err = f.WriteString(whiteList)
		s.must(err)
		s.must(f.Close())
		s.opens("new", "http://bank.example/")
		s.must(s.refused("work", "http://shop.example/"))
		work = s.show()["work"]

		f = s.open("work.10.137.0.11")
		write(f, shop+"\n")
		s.must(f.Close())
		s.opens("work", "http://shop.example/")
		s.until("bank is refused", func() error { return s.refused("work", "http://bank.example/") })
		if s.show()["play"].State != play.State || s.page("play", "http://shop.example/") != nil {
			s.Error("play was disturbed")
		}

		// At the start there is no last good one.
		f = s.open("work.10.137.0.11")
		_, err = f.WriteString(bank + "\n")
		s.must(err)
		s.stop()
		s.start()
		s.opens("play", "http://shop.example/")
		s.must(s.cutOff("work"))
		s.must(f.Close())
		s.opens("work", "http://bank.example/")
		s.stop()
	})
}
