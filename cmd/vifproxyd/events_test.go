package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"vifproxy/internal/events"
	"vifproxy/internal/lab"
)

// watch runs `vifproxyctl watch --json` and returns what it has shown so far.
func (s *site) watch(names ...string) func() []events.Event {
	s.Helper()
	var out lockedBuffer
	args := append([]string{"--socket=" + s.socket(), "watch", "--json"}, names...)
	cmd := exec.Command(filepath.Join(programs, "vifproxyctl"), args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	s.must(cmd.Start())
	s.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // it was killed
		if s.Failed() {
			s.Logf("watch said:\n%s", out.String())
		}
	})
	return func() (told []events.Event) {
		text := out.String()
		for line := range strings.Lines(text[:strings.LastIndex(text, "\n")+1]) {
			var e events.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				s.Fatalf("watch says %s", line)
			}
			told = append(told, e)
		}
		return told
	}
}

// untilTold waits until what a watcher was shown satisfies want, after the first n events, and returns how many
// there are up to that one.
func (s *site) untilTold(watched func() []events.Event, n int, want string, is func(events.Event) bool) int {
	s.Helper()
	s.until("watch tells of "+want, func() error {
		told := watched()
		i := slices.IndexFunc(told[n:], is)
		if i < 0 {
			return fmt.Errorf("it told of %+v", told[n:])
		}
		n += i + 1
		return nil
	})
	return n
}

func named(name string) func(events.Event) bool {
	return func(e events.Event) bool { return e.Event == name }
}

func refusal(host string) func(events.Event) bool {
	return func(e events.Event) bool { return e.Event == "refused" && e.VM == "social" && e.Host == host }
}

// denied is what `vifproxyctl denied --json` says, by AppVM.
func (s *site) denied(args ...string) map[string]events.Denied {
	s.Helper()
	out, errs, status := s.ctl(append([]string{"denied", "--json"}, args...)...)
	if status != 0 {
		s.Fatalf("denied: exit status %d: %s", status, errs)
	}
	var all []events.Denied
	s.must(json.Unmarshal([]byte(out), &all))
	byName := map[string]events.Denied{}
	for _, d := range all {
		byName[d.VM] = d
	}
	return byName
}

// From a page that does not open to the one command that lets it, as a person goes.
func TestRefusedPageIsSeenEverywhere(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("social.10.137.0.11", bank)
	s.rules("work.10.137.0.12", bank)
	s.start()
	watched := s.watch("social")
	n := s.untilTold(watched, 0, "itself", named(events.Watching))
	s.attach("social", "10.137.0.11")
	s.attach("work", "10.137.0.12")
	n = s.untilTold(watched, n, "the AppVM", func(e events.Event) bool {
		return e.Event == "connected" && e.VIF == s.vifs["social"] && e.IP.String() == "10.137.0.11"
	})
	n = s.untilTold(watched, n, "its proxy", named("proxy-listens"))
	s.opens("social", "http://bank.example/")
	s.opens("work", "http://bank.example/")

	r := s.Get("social", "http://shop.example/")
	for _, text := range []string{
		"vifproxyctl allow social <", "vifproxyctl denied social<", "10.137.0.11", lab.Gateway.String(),
	} {
		if r.Status != 403 || !strings.Contains(r.Body, text) {
			t.Errorf("status %d (%v), without %q on the page:\n%s", r.Status, r.Err, text, r.Body)
		}
	}
	n = s.untilTold(watched, n, "the refused page", refusal("shop.example"))
	s.refuses("social", "https://cdn.example/", "http://shop.example/again")
	s.refuses("work", "http://other.example/")
	n = s.untilTold(watched, n, "the refused tunnel", refusal("cdn.example"))
	s.until("the refusals are counted", func() error {
		d := s.denied()
		social, work := d["social"].Hosts, d["work"].Hosts
		if len(social) != 2 || len(work) != 1 || work[0].Host != "other.example" ||
			social[0].Host != "shop.example" || social[0].Count != 2 || !social[0].First.Before(social[0].Last) ||
			social[1].Host != "cdn.example" || social[1].Count != 1 {
			return fmt.Errorf("%+v", d)
		}
		return nil
	})
	if out, _, status := s.ctl("denied", "social"); status != 0 || !strings.Contains(out, "shop.example  2 ") ||
		strings.Contains(out, "other.example") {
		t.Errorf("denied social: exit status %d:\n%s", status, out)
	}
	if d := s.denied("--since=1ns", "work")["work"]; len(d.Hosts) != 0 {
		t.Errorf("refused in the last nanosecond: %+v", d)
	}

	s.rules("social.10.137.0.11", bank, shop)
	n = s.untilTold(watched, n, "the change", func(e events.Event) bool { return e.Event == "in-force" && e.MS > 0 })
	if err := s.page("social", "http://shop.example/"); err != nil {
		t.Errorf("in force, says watch: %v", err)
	}
	for _, e := range watched() {
		if e.VM != "social" && e.VM != "" {
			t.Errorf("watch social tells of %+v", e)
		}
	}

	// The daemon's end is not that of watch, however it comes.
	for _, end := range []func(){s.stop, s.crash} {
		end()
		n = s.untilTold(watched, n, "the daemon's end", named(events.Lost))
		s.start()
		n = s.untilTold(watched, n, "its return", named(events.Watching))
		s.opens("social", "http://bank.example/")
		s.refuses("social", "http://cdn.example/")
		n = s.untilTold(watched, n, "a refused page", refusal("cdn.example"))
	}
	s.stop()
}

// ask sends a request to an AppVM's proxy, as it stands, and returns all of the answer.
func (s *site) ask(vm, request string) (string, error) {
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	conn, err := s.Dial(ctx, vm, "tcp", fmt.Sprintf("%s:%d", lab.Gateway, lab.ProxyPort))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := errors.Join(conn.SetDeadline(deadline), send(conn, request)); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

func send(conn net.Conn, text string) error {
	_, err := io.WriteString(conn, text)
	return err
}

// What an AppVM sends comes out nowhere as anything but text.
func TestHostileHosts(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("social.10.137.0.11", bank)
	s.attach("social", "10.137.0.11")
	s.start()
	s.opens("social", "http://bank.example/")
	plain, err := s.ask("social", "GET http://shop.example/ HTTP/1.0\r\n\r\n")
	s.must(err)
	hosts := []string{"<script>alert(1)", "\x1b]0;evil\x07", "$(reboot).example", "{url}{request}", "\xff\u202e"}
	for _, host := range hosts {
		for _, request := range []string{
			"GET http://" + host + "/ HTTP/1.0\r\n\r\n",
			"GET / HTTP/1.0\r\nHost: " + host + "\r\n\r\n",
		} {
			if got, err := s.ask("social", request); err != nil || got != plain {
				t.Errorf("%q: %v:\n%s", request, err, got)
			}
		}
	}
	s.until("all are on the list", func() error {
		out, _, _ := s.ctl("denied")
		if strings.ContainsAny(out, "\x1b\x07\u202e") || !utf8.ValidString(out) || strings.Count(out, "\n") != 2+2*len(hosts) || // by port

			!strings.Contains(out, `\x1b]0;evil\a `) || !strings.Contains(out, `\xff\u202e`) {
			return errors.New(out)
		}
		return nil
	})
	if log := s.daemon.log.String(); strings.ContainsAny(log, "\x1b\x07\u202e") {
		t.Errorf("the log: %q", log)
	}
	s.stop()
}

// Ten thousand refusals of one AppVM cost the daemon no memory, the log few lines, and another nothing. A refusal that is kept
// takes 600 bytes, so to keep all would take 6 MB. Without the race detector, the heap moves by less than that.
func TestFloodOfRefusals(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.asShipped()
	s.rules("social.10.137.0.11", bank)
	s.rules("loud.10.137.0.12", bank)
	s.attach("social", "10.137.0.11")
	s.attach("loud", "10.137.0.12")
	s.start()
	s.opens("social", "http://bank.example/")
	s.opens("loud", "http://bank.example/")
	s.refuses("social", "http://shop.example/")
	const requests, callers = 12_000, 8
	begin := time.Now()
	flood := func(from, to int) {
		var wait sync.WaitGroup
		for caller := range callers {
			wait.Go(func() {
				dial := func() (net.Conn, error) { return net.DialTimeout("tcp", gateway, patience) }
				err := s.DoVM("loud", func() error {
					for i := from + caller; i < to; i += callers {
						if err := refuse(dial, fmt.Sprintf("%0200d.example", i)); err != nil {
							return fmt.Errorf("request %d: %w", i, err)
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
	}
	flood(0, 1000) // what is made once is there now
	before := s.memory()
	flood(1000, requests)
	s.until("all are counted", func() error {
		d := s.denied()["loud"]
		sum := d.Forgotten
		for _, h := range d.Hosts {
			sum += h.Count
		}
		if len(d.Hosts) != 256 || sum < requests { // on a busy machine all its connections may be taken for a moment, which counts too
			return fmt.Errorf("%d hosts, %d refusals", len(d.Hosts), sum)
		}
		return nil
	})
	if after := s.memory(); after > before+4<<10 {
		t.Errorf("the daemon has grown from %d to %d KB", before, after)
	}
	if d := s.denied()["social"]; len(d.Hosts) != 1 || d.Hosts[0].Host != "shop.example" {
		t.Errorf("the quiet one: %+v", d)
	}
	lines, took := strings.Count(s.daemon.log.String(), "refused host"), time.Since(begin)
	if most := 1 + 20 + int(took/time.Second) + 1; lines > most { // that of the quiet one, a burst, and one a second
		t.Errorf("%d lines in the log within %v, want at most %d", lines, took, most)
	}
	s.stop()
}

// memory is the daemon's resident set in KB.
func (s *site) memory() (kb int) {
	s.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.daemon.cmd.Process.Pid))
	s.must(err)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	_, err = fmt.Sscan(rest, &kb)
	s.must(err)
	return kb
}
