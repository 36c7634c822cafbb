package uses

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

const path = "/rules/bank.10.137.31.2"

var bank = plan.Identity{Name: "bank", Addr: netip.MustParseAddr("10.137.31.2")}

// policyOf returns the policy of a list with this content.
func policyOf(t testing.TB, content string, temporary ...string) *policy.Policy {
	t.Helper()
	file, err := rules.ParseFile(path, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	template, err := rules.ParseTemplate("config", "Listen {bind_ip}\nPort {port}\nFilter \"{rules_file}\"\nFilterDefaultDeny Yes\n")
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := rules.ParseHosts(temporary)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(file, hosts, template, policy.Input{Bind: netip.IPv4Unspecified(), Binary: tinyproxy.Binary{Path: "/nowhere"}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// note has a book take in one list.
func note(b *Book, p *policy.Policy, connected bool) {
	d := &plan.Desired{Name: bank.Name, Addr: bank.Addr, Path: path, Policy: p}
	if connected {
		d.Vifs = []string{"vif7.0"}
	}
	b.Note([]*plan.Desired{d})
}

func saw(b *Book, hosts ...string) {
	for _, host := range hosts {
		b.Saw(events.Visit{IP: bank.Addr, Host: host})
	}
}

// text returns what is known of the list: a line of it each, the counted time, how often it was used, and by which hosts.
func text(t testing.TB, b *Book) (lines string, use control.ListUse) {
	t.Helper()
	all := b.Of([]plan.Identity{bank})
	if len(all) != 1 {
		t.Fatalf("%+v", all)
	}
	for _, l := range all[0].Lines {
		lines += fmt.Sprintf("%s %ds %d", l.Pattern, l.Counted, l.Count)
		for _, h := range l.Hosts {
			lines += fmt.Sprintf(" %s=%d", h.Host, h.Count)
		}
		if l.More {
			lines += " and more"
		}
		lines += "\n"
	}
	return lines, all[0]
}

func expect(t testing.TB, b *Book, want string) {
	t.Helper()
	synctest.Wait()
	if got, _ := text(t, b); strings.TrimSpace(got) != strings.TrimSpace(strings.ReplaceAll(want, "\t", "")) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// in runs a test with a book whose Match runs, in the time of the test alone.
func in(t *testing.T, path string, test func(t *testing.T, b *Book)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go b.Match(ctx)
		test(t, b)
	})
}

func TestCounts(t *testing.T) {
	in(t, filepath.Join(t.TempDir(), "uses"), func(t *testing.T, b *Book) {
		saw(b, "early.example") // of no list
		list := policyOf(t, "#: format domains\nbank.example # mine\n*.bank.example\ncdn.bank.example\nold.example\n")
		note(b, list, false)
		time.Sleep(time.Hour) // not connected
		note(b, list, true)
		time.Sleep(time.Minute)
		saw(b, "bank.example", "CDN.bank.example", "cdn.bank.example.", "www.bank.example", "www.bank.example", "elsewhere.example")
		expect(t, b, `
			^([a-zA-Z0-9_-]+\.)+bank\.example\.?$ 60s 4 www.bank.example=2 cdn.bank.example=2
			^bank\.example\.?$ 60s 1 bank.example=1
			^cdn\.bank\.example\.?$ 60s 2 cdn.bank.example=2
			^old\.example\.?$ 60s 0`)

		// An edit of other lines loses nothing. A line that comes later has less time, and counts for hosts that are remembered.
		list = policyOf(t, "#: format domains\n# another order\n*.bank.example\nbank.example\nnew.example\nwww.bank.example\n", "old.example")
		note(b, list, true)
		time.Sleep(time.Second)
		saw(b, "new.example", "old.example")
		expect(t, b, `
			^([a-zA-Z0-9_-]+\.)+bank\.example\.?$ 61s 4 www.bank.example=2 cdn.bank.example=2
			^bank\.example\.?$ 61s 1 bank.example=1
			^new\.example\.?$ 1s 1 new.example=1
			^www\.bank\.example\.?$ 1s 2 www.bank.example=2`)

		// A list that cannot be used stays as it was. Requests of which the host is not known are lost, and the time with them.
		note(b, nil, true)
		time.Sleep(time.Minute)
		saw(b, "")
		time.Sleep(time.Minute)
		if lines, use := text(t, b); use.Lost != 1 || use.Last.IsZero() || use.Counted != 61 || !strings.Contains(lines, "new.example=1") {
			t.Errorf("%+v", use)
		}
		time.Sleep(time.Second)
		if _, use := text(t, b); use.Counted != 62 {
			t.Errorf("%+v", use)
		}
	})
}

// A hostile AppVM asks for names without end. What is remembered is bounded, and what was not counted is said.
func TestFlood(t *testing.T) {
	list := policyOf(t, "#: format domains\n*.bank.example\nquiet.bank.example\nold.example\n")
	const names = 20000
	in(t, filepath.Join(t.TempDir(), "uses"), func(t *testing.T, b *Book) {
		note(b, list, true)
		time.Sleep(time.Minute)
		saw(b, "quiet.bank.example")
		synctest.Wait()
		for i := range names {
			saw(b, fmt.Sprintf("n%d.bank.example", i))
			if i%(hostsMax/2) == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		_, use := text(t, b)
		wide, quiet := use.Lines[0], use.Lines[2]
		if use.Lost != 0 || wide.Count != names+1 || !wide.More || len(wide.Hosts) != hostsMax || quiet.Count != 1 || use.Counted != 60 {
			t.Errorf("lost %d, %d requests by %d hosts, more: %v; %+v", use.Lost, wide.Count, len(wide.Hosts), wide.More, quiet)
		}
	})
	// Nobody matches: all is lost, and none of the time counts.
	synctest.Test(t, func(t *testing.T) {
		b := newBook("")
		note(b, list, true)
		time.Sleep(time.Minute)
		for i := range names {
			saw(b, fmt.Sprintf("n%d.bank.example", i))
		}
		_, use := text(t, b)
		if l := b.lists[path]; use.Lost != names-hostsMax || use.Counted != 0 || len(l.hosts) != hostsMax || len(l.waiting) > 3*hostsMax {
			t.Errorf("%+v, %d hosts, %d wait", use, len(l.hosts), len(l.waiting))
		}
		// What is lost may have begun before the time that counts.
		time.Sleep(time.Minute)
		if _, use = text(t, b); use.Counted != 60 {
			t.Errorf("%+v", use)
		}
		for i := range hostsMax {
			saw(b, fmt.Sprintf("m%d.bank.example", i))
		}
		if _, use = text(t, b); use.Lines[0].Counted != 0 {
			t.Errorf("%+v", use)
		}
	})
}

func TestUncountable(t *testing.T) {
	b := newBook("")
	p := *policyOf(t, "bank\n")
	p.Config.Filter.DefaultDeny = false
	note(b, &p, true)
	saw(b, "bank.example")
	if _, use := text(t, b); use.Uncountable == "" || len(use.Lines) > 0 {
		t.Errorf("%+v", use)
	}
	var none *Book
	none.Note(nil)
	if all := none.Of([]plan.Identity{bank}); all == nil || len(all) > 0 {
		t.Errorf("%+v", all)
	}
}

// Lists that there are no more are forgotten after a while, and some of many at once.
func TestAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook("")
		for i := range 2 * absentListsMax {
			b.Note([]*plan.Desired{{Name: "x", Addr: bank.Addr, Path: fmt.Sprint("list", i)}})
			time.Sleep(time.Second)
		}
		if len(b.lists) != absentListsMax+1 || b.lists["list0"] != nil {
			t.Errorf("%d lists", len(b.lists))
		}
		time.Sleep(absentMax)
		b.Note(nil)
		if len(b.lists) != 1 {
			t.Errorf("%d lists", len(b.lists))
		}
	})
}

func TestFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state", "uses")
	list := policyOf(t, "#: format domains\n*.bank.example\nold.example\n")
	written := func(t *testing.T, b *Book) {
		t.Helper()
		if err := b.write(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v", info, err)
		}
	}
	in(t, file, func(t *testing.T, b *Book) {
		note(b, list, true)
		time.Sleep(time.Minute)
		saw(b, "www.bank.example", "www.bank.example", "a.bank.example")
		synctest.Wait()
		written(t, b)
	})
	const want = `
		^([a-zA-Z0-9_-]+\.)+bank\.example\.?$ 60s 3 a.bank.example=1 www.bank.example=2
		^old\.example\.?$ 60s 0`
	for range 2 {
		in(t, file, func(t *testing.T, b *Book) {
			note(b, list, false)
			expect(t, b, want)
			written(t, b)
			// Without its hosts a list has the same counts.
			if r := b.lists[path].withoutHosts(); r.Hosts != nil || r.Lines[0].Count+r.Lines[1].Count != 3 {
				t.Errorf("%+v", r)
			}
		})
	}

	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	host := strings.Repeat("a", hostMax+1)
	for _, garbage := range []string{"{", "\x00", "[]", `{"lists": 7}`, `{"lists": [{"path": "a"}, {"path": "a"}]}`,
		`{"lists": [{"path": "a", "hosts": [{"host": "h"}, {"host": "h"}]}]}`, `{"lists": [{"path": "a", "hosts": [{"host": "` + host + `"}]}]}`,
		`{"lists": [{"path": "a", "hosts": [{"host": "h", "count": -1}]}]}`, `{"lists": [{"path": "a", "lines": [{"began": 1}]}]}`,
		`{"lists": [{"path": "a", "lines": [{"count": -1}]}]}`, string(good[:len(good)/2]), strings.Repeat(" ", fileMax+1)} {
		if err := os.WriteFile(file, []byte(garbage), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := Open(file); err == nil || !strings.Contains(err.Error(), "the counting begins again") || len(b.lists) > 0 {
			t.Errorf("%.50s: %v", garbage, err)
		}
	}
	for _, odd := range []string{"{}", `{"lists": [{"path": "/rules/bank.10.137.31.2", "counted": 9000000000000000000, "hosts": [{"host": "\u001b[2J", "count": 9}]}]}`} {
		if err := os.WriteFile(file, []byte(odd), 0o600); err != nil {
			t.Fatal(err)
		}
		in(t, file, func(t *testing.T, b *Book) {
			note(b, list, true)
			time.Sleep(time.Second)
			if got, _ := text(t, b); strings.Contains(got, "\x1b") {
				t.Errorf("%q", got)
			}
		})
	}
}

// A file that cannot be written is tried again without a request.
func TestKeepTriesAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // in the way
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBook(filepath.Join(dir, "uses"))
		ctx, cancel := context.WithCancel(t.Context())
		var reported atomic.Pointer[error]
		go b.Keep(ctx, func(err error) { reported.Store(&err) })
		note(b, policyOf(t, "#: format domains\nbank.example\n"), true)
		time.Sleep(2 * writeDelay)
		synctest.Wait()
		if last := *reported.Load(); last == nil || !strings.Contains(last.Error(), "write which lines of lists are used") {
			t.Errorf("a file in the way: %v", last)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(writeInterval + 2*writeDelay)
		synctest.Wait()
		if _, err := os.Stat(b.path); err != nil || *reported.Load() != nil {
			t.Errorf("nothing in the way: %v, %v", err, *reported.Load())
		}
		cancel()
	})
}

// BenchmarkSaw is what a request costs the goroutine that reads what proxies say: of a host that is known, and of one that is not.
func BenchmarkSaw(b *testing.B) {
	for name, hosts := range map[string]int{"known": 1, "new": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			book := newBook("")
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			go book.Match(ctx)
			note(book, policyOf(b, "#: format domains\n*.bank.example\nold.example\n"), true)
			names := make([]string, hosts)
			for i := range names {
				names[i] = fmt.Sprintf("n%d.bank.example", i)
			}
			b.ResetTimer()
			for i := range b.N {
				book.Saw(events.Visit{IP: bank.Addr, Host: names[i%hosts]})
			}
		})
	}
}

// No matcher is made for a list that has let nothing pass: that would be in the way of the AppVM that comes.
func TestNoMatcherBeforeItIsNeeded(t *testing.T) {
	b := newBook("")
	note(b, policyOf(t, "shop.example\n"), true)
	if b.matchOne() || b.lists[path].matcher != nil {
		t.Error("a matcher was made")
	}
	saw(b, "shop.example")
	for b.matchOne() {
	}
	if lines, _ := text(t, b); !strings.HasSuffix(lines, " 1 shop.example=1\n") {
		t.Error(lines)
	}
}
