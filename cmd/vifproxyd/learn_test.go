package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/await"
	"vifproxy/internal/events"
	"vifproxy/internal/lab"
	"vifproxy/internal/lessons"
)

// A lesson is a `vifproxyctl learn` that runs.
type lesson struct {
	s         *site
	cmd       *exec.Cmd
	out, errs lockedBuffer
	ended     chan struct{}
}

// learn starts `vifproxyctl learn`, and returns when the AppVM learns.
func (s *site) learn(args ...string) *lesson {
	s.Helper()
	l := &lesson{s: s, ended: make(chan struct{})}
	l.cmd = exec.Command(filepath.Join(programs, "vifproxyctl"), append([]string{"--socket=" + s.socket(), "learn"}, args...)...)
	l.cmd.Stdout, l.cmd.Stderr = &l.out, &l.errs
	s.must(l.cmd.Start())
	go func() {
		l.cmd.Wait() //nolint:errcheck // its exit status is looked at
		close(l.ended)
	}()
	s.Cleanup(func() {
		l.cmd.Process.Kill() //nolint:errcheck // it may have ended
		await.Value(s.T, "the end of a vifproxyctl learn that was killed", l.ended)
	})
	s.until("the AppVM learns", func() error {
		begun := func() error { // one of these
			if l.said("Ctrl-C ends that") == nil {
				return nil
			}
			return l.said(`"event":"learning"`)
		}
		select {
		case <-l.ended:
			if err := begun(); err != nil {
				s.Fatal(err)
			}
		default:
		}
		return begun()
	})
	return l
}

// said returns an error if vifproxyctl has not said something.
func (l *lesson) said(what string) error {
	if text := l.out.String() + l.errs.String(); !strings.Contains(text, what) {
		return fmt.Errorf("vifproxyctl learn has not said %q, but:\n%s", what, text)
	}
	return nil
}

// end waits for the end of vifproxyctl, which must have this exit status and have said that.
func (l *lesson) end(want int, texts ...string) {
	l.s.Helper()
	await.Value(l.s.T, "the end of vifproxyctl learn", l.ended)
	if got := l.cmd.ProcessState.ExitCode(); got != want {
		l.s.Errorf("vifproxyctl learn: exit status %d, want %d", got, want)
	}
	for _, text := range texts {
		if err := l.said(text); err != nil {
			l.s.Error(err)
		}
	}
}

// echoes reports whether a tunnel to the echo works.
func (s *site) echoes(conn net.Conn) {
	s.Helper()
	s.must(conn.SetDeadline(time.Now().Add(patience)))
	buffer := make([]byte, 4)
	if _, err := conn.Write([]byte("ping")); err != nil {
		s.Errorf("a tunnel that should go on: %v", err)
	} else if _, err := conn.Read(buffer); err != nil {
		s.Errorf("a tunnel that should go on: %v", err)
	}
}

const learner = "work.10.137.21.11"

// startLearner starts the daemon with an AppVM whose list has bank.example and echo.example. other.example leads to the same echo.
func (s *site) startLearner() {
	s.Helper()
	s.Alias("other.example", "echo.example")
	s.rules(learner, "#: format domains", "bank.example", "echo.example")
	s.attach("work", "10.137.21.11")
	s.start()
	s.opens("work", "http://bank.example/")
	s.refuses("work", "https://shop.example/")
}

// The list has lines for the hosts that were learnt and accepted, and no others. Nothing private is open meanwhile, no other port and no address.
func TestLearn(t *testing.T) {
	onBoth(t, func(s *site) {
		s.Host("rebind.example", netip.MustParseAddr("10.137.21.99"))
		s.startLearner()
		kept := s.tunnel("work", "echo.example:443")
		l := s.learn("work", "--accept=all")
		s.echoes(kept)
		s.opens("work", "http://bank.example/", "http://shop.example/", "https://shop.example/", "https://www.news.example/")
		if vm := s.show()["work"]; vm.Learning.Before(time.Now()) || vm.State != control.Running {
			t.Errorf("while it learns: %+v", vm)
		}
		if said := s.on(0, "show"); !strings.Contains(said, "learns until") {
			t.Errorf("show: %s", said)
		}
		if said := s.on(1, "explain", "work", "evil.example"); !strings.Contains(said, "a lesson is under way") {
			t.Errorf("explain: %s", said)
		}
		if said := s.on(1, "learn", "work"); !strings.Contains(said, "work cannot learn: it learns already") {
			t.Errorf("a second lesson: %s", said)
		}
		open := s.tunnel("work", "other.example:443")
		s.echoes(open)
		for _, page := range []string{"http://rebind.example/", "http://198.51.100.1/", "http://shop.example:22/", fmt.Sprintf("http://%s:%d/", lab.Gateway, lab.ProxyPort)} {
			if r := s.Get("work", page); r.Err == nil && r.Status < 400 {
				t.Errorf("while it learns, %s: %+v", page, r)
			}
		}
		if r := s.Get("work", "https://shop.example:25/"); r.Err == nil {
			t.Errorf("while it learns, port 25: %+v", r)
		}
		if r := s.Get("work", "https://shop.example:8443/"); r.Status != 403 {
			t.Errorf("while it learns, port 8443: %+v", r)
		}
		s.until("that is noted", func() error {
			for _, h := range s.denied("work")["work"].Hosts {
				if h.Port == 8443 {
					return nil
				}
			}
			return errors.New("it is not")
		})
		s.until("the hosts are noted", func() error {
			return errors.Join(l.said("shop.example:443"), l.said("shop.example:80"), l.said("www.news.example:443"), l.said("other.example:443"))
		})
		s.must(l.cmd.Process.Signal(syscall.SIGTERM))
		l.end(0, "the list of work is in force again: it was ended", "in force after", "refused: its port is not open")
		s.cut(open)
		s.echoes(kept)
		content, err := os.ReadFile(filepath.Join(s.rulesDir(), learner))
		s.must(err)
		if want := "#: format domains\nbank.example\necho.example\nwww.news.example\nother.example\nshop.example\n"; string(content) != want {
			t.Errorf("the list is %q, want %q", content, want)
		}
		from := time.Now()
		s.opens("work", "http://bank.example/", "http://shop.example/", "https://shop.example/", "https://www.news.example/")
		s.echoes(s.tunnel("work", "other.example:443"))
		denied, err := control.NewClient(s.socket()).Denied(t.Context(), []string{"work"}, from)
		if err != nil || len(denied) != 1 || len(denied[0].Hosts) > 0 {
			t.Errorf("refused after that: %+v, %v", denied, err)
		}
		s.refuses("work", "https://evil.example/", "https://news.example/")
		s.stop()
	})
}

// However a lesson ends, the list is in force again at once, and what was open is cut.
func TestLessonsEnd(t *testing.T) {
	onBoth(t, func(s *site) {
		s.startLearner()
		closed := func() {
			s.Helper()
			s.opens("work", "http://bank.example/")
			s.refuses("work", "https://shop.example/")
		}

		l := s.learn("work", "--for=2s")
		l.end(0, "the list of work is in force again: its time is over")
		closed()

		l = s.learn("work")
		s.must(l.cmd.Process.Signal(syscall.SIGTSTP)) // Ctrl-Z: nobody would look at what it reaches
		l.end(0, "the list of work is in force again: it was ended")
		closed()

		l = s.learn("work")
		open := s.tunnel("work", "other.example:443")
		s.must(l.cmd.Process.Kill())
		s.cut(open)
		s.until("the list is in force again", func() error {
			if vm := s.show()["work"]; !vm.Learning.IsZero() {
				return fmt.Errorf("%+v", vm)
			}
			return nil
		})
		closed()

		l = s.learn("work")
		open = s.tunnel("work", "other.example:443")
		s.on(0, "stop", "work")
		l.end(0, "it is stopped")
		s.cut(open)
		if said := s.on(1, "learn", "work"); !strings.Contains(said, "work cannot learn: it is stopped: start it with `vifproxyctl start work`") {
			t.Errorf("learn: %s", said)
		}
		s.on(0, "start", "work")
		closed()

		l = s.learn("work")
		pid := s.show()["work"].PID
		s.must(syscall.Kill(pid, syscall.SIGKILL))
		l.end(0, "its proxy does not run")
		closed()

		l = s.learn("work")
		s.detach("work")
		l.end(0, "it is not connected")
		s.attach("work", "10.137.21.11")
		closed()

		l = s.learn("work")
		s.opens("work", "https://shop.example/")
		s.crash()
		l.end(1)
		s.noProxies()
		if r := s.Get("work", "https://shop.example/"); r.Err == nil {
			t.Errorf("after the daemon was killed: %+v", r)
		}
		s.start()
		closed()
		if vm := s.show()["work"]; !vm.Learning.IsZero() {
			t.Errorf("after a crash: %+v", vm)
		}
		s.stop()
	})
}

// A list that changes during a lesson is in force when that is over, and one that is wrong ends it.
func TestListsChangeDuringLessons(t *testing.T) {
	onBoth(t, func(s *site) {
		s.startLearner()
		watched := s.watch("work")
		l := s.learn("work")
		s.rules(learner, "#: format domains", "bank.example", "shop.example")
		s.update()
		s.opens("work", "https://news.example/")
		s.until("the host is noted", func() error { return l.said("news.example:443") })
		s.must(l.cmd.Process.Signal(syscall.SIGTERM))
		l.end(0, "vifproxyctl allow work news.example")
		s.opens("work", "http://bank.example/", "https://shop.example/")
		s.refuses("work", "https://news.example/", "https://echo.example/")

		l = s.learn("work")
		s.rules(learner, "#: format domains", "bank.example", "a b")
		l.end(1, "its list is wrong")
		s.opens("work", "http://bank.example/", "https://shop.example/") // the last good list
		s.refuses("work", "https://news.example/")
		n := s.untilTold(watched, 0, "learning", func(e events.Event) bool { return e.Event == "learning" && e.Seconds == 600 })
		s.untilTold(watched, n, "its end", func(e events.Event) bool { return e.Event == "learning-over" && e.VM == "work" })
		s.stop()
	})
}

// An AppVM that visits more names than a record has is told to have done so, and a lesson has the names behind an Upstream too.
func TestAHostileAppVMLeavesABoundedRecord(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.corporate(3128)
	s.templateWith("Upstream http 198.51.100.77:3128")
	s.rules(learner, "#: format domains", "bank.example")
	s.attach("work", "10.137.21.11")
	s.start()
	s.until("the proxy serves", func() error {
		if got := s.request("work", "GET", "http://bank.example/"); !strings.HasPrefix(got, "200") {
			return errors.New(got)
		}
		return nil
	})
	l := s.learn("work", "--json")
	const visits = lessons.HostsMax + 50
	names := make(chan int)
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for i := range names {
				s.request("work", "GET", fmt.Sprintf("http://n%d.flood%d.example/", i, i))
			}
		})
	}
	for i := range visits {
		names <- i
	}
	close(names)
	running.Wait()
	s.until("the record says that it is cut", func() error { return l.said(`"event":"cut","cut":`) }) // a line of the log may be lost: that is told so, too
	s.must(l.cmd.Process.Signal(syscall.SIGTERM))
	l.end(0, "connections to further hosts are not noted, and there is no proposal for these")
	hosts := map[string]bool{}
	for line := range strings.Lines(l.out.String()) {
		var said control.Lesson
		s.must(json.Unmarshal([]byte(line), &said))
		if said.LearntHost != nil && said.Event == control.LessonHost {
			hosts[said.Host] = true
			if !strings.HasSuffix(said.Host, ".example") { // such as the Upstream's address
				t.Errorf("%s is noted, and nobody has visited it", said.Host)
			}
		}
	}
	if len(hosts) != lessons.HostsMax {
		t.Errorf("%d hosts are noted", len(hosts))
	}
	s.stop()
}
