package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// What of the files of an administrator is believed, and when.

// whiteList is a template that is complete.
const whiteList = "Listen {bind_ip}\nPort {port}\nAllow {vm_ip}\nFilter \"{rules_file}\"\nFilterDefaultDeny Yes\nMaxClients 100\n"

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
	if table, _, _ := s.ctl("show"); !strings.Contains(table, "black list: reaches all hosts but those in its rule file") {
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
		s.must(writeFile(filepath.Join(s.dir, path), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
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
		write(f, "MaxClients 100\n")
		s.must(f.Truncate(0))
		_, err := f.Seek(0, 0)
		s.must(err)
		_, err = f.WriteString(whiteList)
		s.must(err)
		s.must(f.Close())
		s.opens("new", "http://bank.example/")
		s.must(s.refused("work", "http://shop.example/"))
		s.until("work has the new template too", func() error {
			if now := s.show()["work"]; now.PID == work.PID || now.State != control.Running {
				return fmt.Errorf("%+v", now)
			}
			return nil
		})
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

// ownEtc gives the daemon an /etc of its own, a layer above the machine's, with the lab's resolv.conf as a plain file.
// change runs a shell script there, in the daemon's mount namespace and below its root: nsenter alone goes to the root of the
// namespace, which in a chroot is another machine's, whose /etc it would change.
func (s *site) ownEtc() (change func(script string)) {
	s.Helper()
	layers := s.TempDir()
	s.must(syscall.Mount("tmpfs", layers, "tmpfs", 0, "mode=755"))
	s.Cleanup(func() { syscall.Unmount(layers, syscall.MNT_DETACH) }) //nolint:errcheck // with the machine's tests
	const script = `cp /etc/resolv.conf "$1"/resolv && umount /etc/resolv.conf && mkdir "$1"/upper "$1"/work &&
		mount -t overlay etc -o lowerdir=/etc,upperdir="$1"/upper,workdir="$1"/work /etc &&
		cp "$1"/resolv /etc/resolv.conf.new && mv /etc/resolv.conf.new /etc/resolv.conf && shift && exec "$@"`
	s.within = []string{"sh", "-c", script, "sh", layers}
	return func(script string) {
		s.Helper()
		pid := fmt.Sprint(s.daemon.cmd.Process.Pid)
		cmd := exec.Command("nsenter", "-t", pid, "-m", "-r", "sh", "-ec",
			`[ "$(stat -fc %T /etc)" = overlayfs ]; DIR=`+s.dir+"; "+script)
		if out, err := cmd.CombinedOutput(); err != nil {
			s.Fatalf("%v: %s", err, out)
		}
	}
}

// resolv.conf is not the business of proxies: whatever becomes of the file, those that run go on, and names are asked for where it says.
func TestResolvConfBecomesALink(t *testing.T) {
	onBoth(t, func(s *site) {
		change := s.ownEtc()
		s.startWork()
		pid := s.show()["work"].PID
		conn := s.tunnel("work", "bank.example:443")
		// The first name server is silent from now on.
		s.inFirewall("nft", "add table ip other; add chain ip other in { type filter hook prerouting priority -300; }; "+
			"add rule ip other in ip saddr 10.139.1.1 drop")
		other := lab.OtherNameServer.String()
		for _, step := range []struct{ server, script string }{
			// as `dpkg -i systemd-resolved` does, and VPN clients
			{other, `mkdir -p $DIR/resolve; echo "nameserver $NS" >$DIR/resolve/stub; ln -s $DIR/resolve/stub /etc/r; mv -T /etc/r /etc/resolv.conf`},
			// its service restarts
			{"10.139.1.2", `rm -r $DIR/resolve; mkdir $DIR/resolve; echo "nameserver $NS" >$DIR/resolve/stub`},
			// one more link, by way of a directory that is one
			{other, `mkdir $DIR/vpn; ln -s $DIR/resolve $DIR/vpn/d; ln -s $DIR/vpn/d/stub /etc/r; mv -T /etc/r /etc/resolv.conf
				mkdir $DIR/new; echo "nameserver $NS" >$DIR/new/stub; ln -sfn $DIR/new $DIR/vpn/d; rm -r $DIR/resolve`},
			// and it is a file again
			{"10.139.1.2", `echo "nameserver $NS" >/etc/r; mv -T /etc/r /etc/resolv.conf`},
		} {
			change("NS=" + step.server + "; " + step.script)
			s.until("the name server is open", func() error {
				if rules := s.ruleset(); !strings.Contains(rules, step.server) {
					return fmt.Errorf("it is not: %s", rules)
				}
				return nil
			})
			s.opens("work", "http://bank.example/", "https://bank.example/")
			if now := s.show()["work"].PID; now != pid {
				t.Errorf("another process serves: %d, and before %d", now, pid)
			}
		}
		change(`cp /etc/hosts $DIR/hosts; seq 5000 | sed 's/^/0.0.0.0 ads/' >/etc/hosts`)
		s.says("show", "only its first 4096 lines count")
		change(`cp $DIR/hosts /etc/hosts`)
		s.until("nothing is wrong with hosts", func() error {
			if text, _, _ := s.ctl("show"); strings.Contains(text, "4096") {
				return fmt.Errorf("%s", text)
			}
			return nil
		})
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Errorf("the tunnel was cut: %v", err)
		}
		s.must(conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the tunnel was cut: %v", err)
		}
		conn.Close()
		s.stop()
	})
}

// TestAListOnADeadFileSystem: a rule file may be a link to where nothing answers. That is the trouble of this AppVM alone: the daemon says
// so, others are served, what is changed in their lists is in force, and those that come have a proxy.
func TestAListOnADeadFileSystem(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	dead := filepath.Join(s.dir, "dead")
	revive := s.deadFileSystem(dead)
	s.startWork()
	link := filepath.Join(s.rulesDir(), "play.10.137.0.12")
	s.must(os.Symlink(filepath.Join(dead, "play"), link))
	s.says("show", "does not answer")
	if err := s.page("work", "http://bank.example/"); err != nil {
		s.Error(err)
	}
	s.rules("work.10.137.0.11", shop)
	s.opens("work", "http://shop.example/")
	if r := s.Get("work", "http://bank.example/"); r.Status != 403 {
		s.Errorf("what was taken from a list is not in force: %v", r)
	}
	s.rules("other.10.137.0.13", bank)
	s.attach("other", "10.137.0.13")
	s.opens("other", "http://bank.example/")
	if _, known := s.show()["play"]; !known {
		s.Error("the list that cannot be read is not shown")
	}
	revive()
	s.must(os.Remove(link))
	s.rules("work.10.137.0.11", bank, shop)
	s.opens("work", "http://bank.example/", "http://shop.example/")
	s.stop()
}

// TestInputsOnADeadFileSystem: resolv.conf, hosts, the pages of a template and the program become links to where nothing answers. The daemon
// says so, and what is taken from a list is closed. Requests wait if a proxy's C library does, which opens resolv.conf and hosts too.
func TestInputsOnADeadFileSystem(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"resolv.conf": "rm /etc/resolv.conf; ln -s $DIR/dead/resolv.conf /etc/resolv.conf",
		"hosts":       "rm /etc/hosts; ln -s $DIR/dead/hosts /etc/hosts",
		"a page":      "ln -s $DIR/dead/page $DIR/l; mv -T $DIR/l $DIR/page",
		"the program": "ln -s $DIR/dead/tinyproxy $DIR/l; mv -T $DIR/l $DIR/tinyproxy",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, lab.R42)
			change := s.ownEtc()
			dead, page := filepath.Join(s.dir, "dead"), filepath.Join(s.dir, "page")
			s.must(os.WriteFile(page+".html", []byte("no"), 0o644))
			s.must(os.Symlink(page+".html", page))
			s.must(os.Symlink("/usr/bin/tinyproxy", filepath.Join(s.dir, "tinyproxy")))
			template, err := os.ReadFile("../../rules/builtin.conf")
			s.must(err)
			s.rules("config", string(template)+"DefaultErrorFile \""+page+"\"\n")
			revive := s.deadFileSystem(dead)
			s.rules("work.10.137.74.11", bank)
			s.rules("play.10.137.74.12", shop, `^echo\.example$`)
			s.attach("work", "10.137.74.11")
			s.attach("play", "10.137.74.12")
			s.start("--tinyproxy=" + filepath.Join(s.dir, "tinyproxy"))
			s.opens("work", "http://bank.example/")
			s.opens("play", "http://shop.example/")
			tunnel := s.tunnel("play", "echo.example:443")
			s.echoes(tunnel)
			change(script)
			if name == "the program" {
				s.must(s.daemon.cmd.Process.Signal(syscall.SIGHUP)) // nobody watches it
			}
			s.says("show", "does not answer")
			if name == "a page" || name == "the program" {
				s.opens("work", "http://bank.example/")
			}
			s.rules("play.10.137.74.12", shop)
			s.until("what is taken from a list is closed", func() error {
				if err := echoes(tunnel); err == nil {
					return errors.New("the tunnel is open")
				}
				return nil
			})
			revive()
			change("ln -s /usr/bin/tinyproxy $DIR/l; mv -T $DIR/l $DIR/tinyproxy; ln -s $DIR/page.html $DIR/l; mv -T $DIR/l $DIR/page; rm -f /etc/hosts; rm /etc/resolv.conf; printf 'nameserver 10.139.1.1\nnameserver 10.139.1.2\n' >/etc/resolv.conf")
			s.opens("play", "http://shop.example/")
			s.opens("work", "http://bank.example/")
			s.stop()
		})
	}
}
