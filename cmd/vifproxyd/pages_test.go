package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vifproxy/internal/await"
	"vifproxy/internal/lab"
)

// TestPagesThatAreReplaced: however a page of the template is replaced, its AppVM sees the new one. Nobody tells the daemon, no connection
// is cut, and an AppVM with another page keeps its process.
func TestPagesThatAreReplaced(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	path := func(name string) string { return filepath.Join(s.dir, name) }
	write := func(name, text string) {
		s.Helper()
		s.must(os.MkdirAll(filepath.Dir(path(name)), 0o755))
		s.must(os.WriteFile(path(name), []byte(text), 0o644))
	}
	rename := func(from, to string) { s.Helper(); s.must(os.Rename(path(from), path(to))) }
	link := func(target, name string) {
		s.Helper()
		s.must(os.Symlink(target, path(name+".new")))
		rename(name+".new", name)
	}
	write("v1/pages/10.137.75.11.html", "first")
	link("v1", "now")
	s.templateWith(fmt.Sprintf("ErrorFile 403 %q", path("now/pages/{vm_ip}.html")))
	write("v1/pages/10.137.75.12.html", "never changed")
	write("v2/pages/10.137.75.12.html", "changed once")
	s.rules("work.10.137.75.11", bank, `^echo\.example$`)
	s.rules("play.10.137.75.12", bank)
	s.attach("work", "10.137.75.11")
	s.attach("play", "10.137.75.12")
	s.start()
	sees := func(want string) {
		s.Helper()
		s.until("the AppVM sees the page "+want, func() error {
			if r := s.Get("work", "http://shop.example/"); r.Status != 403 || !strings.Contains(r.Body, want) {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	sees("first")
	s.opens("play", "http://bank.example/")
	started := func(vm string) int { return strings.Count(s.daemon.log.String(), `msg="proxy listens" vm=`+vm) }
	for _, vm := range []string{"work", "play"} {
		if n := started(vm); n != 1 {
			s.Errorf("%s has had %d processes by now", vm, n)
		}
	}
	play := s.show()["play"]
	tunnel := s.tunnel("work", "echo.example:443")
	const page = "v1/pages/10.137.75.11.html"
	for _, step := range []struct {
		want string
		do   func()
	}{
		{"renamed", func() { write("new", "renamed"); rename("new", page) }},
		{"written in place", func() { write(page, "written in place") }},
		{"removed and made again", func() { s.must(os.Remove(path(page))); write(page, "removed and made again") }}, // ext4 gives it the same number
		{"behind another link", func() { write("v2/pages/10.137.75.11.html", "behind another link"); link("v2", "now") }},
		{"the page is a link", func() {
			write("elsewhere/page", "the page is a link")
			link("../../elsewhere/page", "v2/pages/10.137.75.11.html")
		}},
		{"behind the link", func() { write("new", "behind the link"); rename("new", "elsewhere/page") }},
		{"in another directory", func() {
			rename("elsewhere", "away")
			write("elsewhere/page", "in another directory")
		}},
		{"behind the link", func() { s.must(os.RemoveAll(path("elsewhere"))); rename("away", "elsewhere") }},
	} {
		step.do()
		sees(step.want)
		s.echoes(tunnel)
		if step.want == "removed and made again" {
			s.undisturbed(play, "http://bank.example/")
		}
	}
	if n := started("play"); n != 2 {
		s.Errorf("play's page was replaced once, and it has had %d processes", n)
	}

	// A template that is refused names no pages, and concerns no page of what runs.
	play, work := s.show()["play"], s.show()["work"]
	s.rules("config", "Port {nothing}")
	s.says("show", "unknown placeholder")
	s.ctl("update") // it says that the template is refused
	s.undisturbed(play, "http://bank.example/")
	s.undisturbed(work, "http://bank.example/")
	tunnel.Close()
	s.stop()
}

// TestEndBesideADeadFileSystem: whatever waits for a file system that does not answer, the daemon ends when it is told to.
func TestEndBesideADeadFileSystem(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	dead, page := filepath.Join(s.dir, "dead"), filepath.Join(s.dir, "page")
	s.deadFileSystem(dead)
	s.must(os.WriteFile(page, nil, 0o644))
	s.templateWith(fmt.Sprintf("ErrorFile 403 %q", page))
	s.rules("work.10.137.77.11", bank)
	s.attach("work", "10.137.77.11")
	s.start()
	s.opens("work", "http://bank.example/")
	s.must(os.Symlink(filepath.Join(dead, "page"), page+".new"))
	s.must(os.Rename(page+".new", page))
	s.says("show", "pages of the template: ")
	s.must(os.Symlink(filepath.Join(dead, "play"), filepath.Join(s.rulesDir(), "play.10.137.77.12")))
	s.says("show", "events of rule directory: ", "events of pages: ")
	d := s.daemon
	s.daemon = nil // nothing of it is left to unmount the file system from
	s.must(d.cmd.Process.Signal(syscall.SIGTERM))
	await.Value(t, "the end of vifproxyd", d.exited)
	if d.err != nil {
		t.Errorf("it ended: %v", d.err)
	}
	s.nothingLeft()
}
