package lessons

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/match"
)

var list = match.New([]string{`^bank\.example$`}, rules.Syntax{Language: expression.Extended})

// follow returns all lines about hosts of a record, which must be over, by host and port.
func follow(t *testing.T, r *Record) (hosts map[string]control.LearntHost, last control.Lesson, lines int) {
	t.Helper()
	hosts = map[string]control.LearntHost{}
	err := r.Follow(t.Context(), list, func(l control.Lesson) error {
		lines++
		last = l
		if l.Event == control.LessonHost {
			hosts[fmt.Sprintf("%s:%d", l.Host, l.Port)] = *l.LearntHost
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return hosts, last, lines
}

func TestRecord(t *testing.T) {
	r := NewRecord()
	for range 3 {
		r.Saw("Bank.Example", 443)
	}
	for _, sent := range []string{"bank.example.", "192.0.2.1", "2001:db8::1", "detectportal.firefox.com", "a.example"} {
		r.Saw(sent, 80)
	}
	hostile := []string{"", "\x1b[31mred.example", "a b", "*.example", "a..b", strings.Repeat("a", 64) + ".example", "x\n2.example", "fe80::1%eth0",
		"<b>.example", "1.2.3", "..", "é.example\u202e"}
	for _, sent := range hostile {
		r.Saw(sent, 443)
	}
	r.Saw("noport.example", 0)
	r.End("its time is over")
	r.End("again")
	r.Saw("late.example", 443)
	hosts, last, lines := follow(t, r)
	if h := hosts["bank.example:443"]; h.Count != 3 || !h.Listed || h.First.After(h.Last) {
		t.Errorf("bank.example: %+v", h)
	}
	if h := hosts["a.example:80"]; h.Count != 1 || h.Listed || h.Browser != "" {
		t.Errorf("a.example: %+v", h)
	}
	if h := hosts["detectportal.firefox.com:80"]; h.Browser == "" {
		t.Errorf("a browser's own host: %+v", h)
	}
	for _, name := range []string{"192.0.2.1:80", "2001:db8::1:80", "bank.example:80"} {
		if hosts[name].Count != 1 {
			t.Errorf("no %s among %v", name, hosts)
		}
	}
	if len(hosts) != 6 || lines != 8 || last.Event != control.LessonOver || last.Why != "its time is over" || last.Cut != 0 || last.Unread != len(hostile)+1 {
		t.Errorf("%d hosts in %d lines, the last one %+v: %v", len(hosts), lines, last, hosts)
	}
}

// A hostile AppVM that visits ten times as many names as a record has leaves a bounded one, which says what is missing.
func TestRecordsAreBounded(t *testing.T) {
	r := NewRecord()
	const names = 10 * HostsMax
	for i := range names {
		r.Saw(fmt.Sprintf("n%d.example", i), 443)
	}
	r.Saw("n7.example", 443) // what is noted goes on being counted
	r.End("")
	hosts, last, _ := follow(t, r)
	if len(hosts) != HostsMax || last.Cut != names-HostsMax || hosts["n7.example:443"].Count != 2 {
		t.Errorf("%d hosts, %d cut, n7 %+v", len(hosts), last.Cut, hosts["n7.example:443"])
	}
}

// While somebody follows, a host is told again when it is visited again, and nothing holds up what notes it.
func TestFollow(t *testing.T) {
	r := NewRecord()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.Saw("a.example", 443)
	var told []string
	err := r.Follow(ctx, list, func(l control.Lesson) error {
		switch {
		case l.Event == control.LessonCut:
			told = append(told, fmt.Sprintf("unread %d", l.Unread))
			cancel()
		case l.Count == 1:
			r.Saw("a.example", 443)
			fallthrough
		default:
			told = append(told, fmt.Sprintf("%s %d", l.Host, l.Count))
		}
		if l.LearntHost != nil && l.Count == 2 {
			r.Saw("a b", 443)
		}
		return nil
	})
	if got := strings.Join(told, ", "); got != "a.example 1, a.example 2, unread 1" || !errors.Is(err, context.Canceled) {
		t.Errorf("told %s, then %v", got, err)
	}
	broken := errors.New("nobody reads")
	r.Saw("a.example", 443)
	if err := r.Follow(t.Context(), list, func(control.Lesson) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("the error of who reads: %v", err)
	}
}
