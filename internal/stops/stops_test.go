package stops

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestFile(t *testing.T) {
	dir := t.TempDir()
	file := File(filepath.Join(dir, "state", "stopped"))
	if s, err := file.Read(); err != nil || !reflect.DeepEqual(s, Record{}) {
		t.Errorf("without a file: %+v, %v", s, err)
	}
	want := Record{Stopped: []Stop{{Name: "bank", Addr: netip.MustParseAddr("10.137.0.1"), Since: time.Unix(1, 0).UTC()}, {Name: "wrong", Since: time.Unix(2, 0).UTC(), By: "a machine"}},
		All: time.Unix(3, 0).UTC()}
	if err := file.Write(Record{}); err != nil {
		t.Fatal(err)
	}
	if err := file.Write(want); err != nil {
		t.Fatal(err)
	}
	if got, err := file.Read(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if info, _ := os.Stat(string(file)); info.Mode() != 0o640 {
		t.Errorf("mode %v", info.Mode())
	}
	whole, err := os.ReadFile(string(file))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "x", "{}{}", `{"stop":[]}`, `{"stopped":[{"since":"2026-01-01T00:00:00Z"}]}`,
		string(whole[:len(whole)/2]), strings.Repeat(" ", recordMax+1)} {
		if err := os.WriteFile(string(file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := file.Read(); err == nil || !strings.Contains(err.Error(), "kill-all-and-restart") {
			t.Errorf("%.60q is read as %+v, %v", text, s, err)
		}
	}
	if err := os.Remove(string(file)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(string(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Read(); err == nil {
		t.Error("a directory is read")
	}
	if err := file.Write(want); err == nil {
		t.Error("a directory is written over")
	}
}

// An AppVM that was stopped by its name alone is stopped by the address of its list, too, as soon as there is one.
func TestFound(t *testing.T) {
	work, other := netip.MustParseAddr("10.137.0.1"), netip.MustParseAddr("10.137.0.2")
	var r Record
	r.Stop("work", netip.Addr{}, time.Unix(1, 0))
	for _, step := range []struct {
		name  string
		addr  netip.Addr
		found bool
	}{{"bank", other, false}, {"work", netip.Addr{}, false}, {"work", work, true}, {"work", other, false}} {
		if got := r.Found(step.name, step.addr); got != step.found {
			t.Errorf("%s %v is found: %t", step.name, step.addr, got)
		}
	}
	for _, who := range []struct {
		name    string
		addr    netip.Addr
		stopped bool
	}{{"renamed", work, true}, {"work", other, true}, {"bank", other, false}} {
		if _, by := r.Of(who.name, who.addr); by != "" != who.stopped {
			t.Errorf("%s %v is stopped by %q", who.name, who.addr, by)
		}
	}
}

// A stop that is not a person's says why, and a person's start ends it.
func TestHold(t *testing.T) {
	addr, now := netip.MustParseAddr("10.137.0.1"), time.Unix(1, 0)
	var r Record
	r.Hold("bank", addr, "a machine", now)
	if since, by := r.Of("bank", addr); by != "a machine" || since != now {
		t.Errorf("stopped by %q since %v", by, since)
	}
	r.Start("bank", addr, now)
	if _, by := r.Of("bank", addr); by != "" {
		t.Errorf("still stopped by %q", by)
	}
	r.Stop("bank", addr, now)
	r.Stop("work", netip.MustParseAddr("10.137.0.2"), now)
	r.Hold("bank", addr, "a machine", now)
	for _, stop := range r.Stopped {
		if stop.By != "" {
			t.Errorf("a person has stopped %s, and %q is said to have", stop.Name, stop.By)
		}
	}
}

// A start is for the AppVM that was stopped, also while that has no list, so that nobody knows its address but the record.
func TestStartWithoutAList(t *testing.T) {
	addr, now := netip.MustParseAddr("10.137.0.1"), time.Unix(1, 0)
	r := Record{All: now}
	r.Stop("bank", addr, now)
	r.Start("bank", netip.Addr{}, now)
	if _, by := r.Of("bank", addr); by != "" {
		t.Errorf("it is started, and stopped by %s", by)
	}
	if _, by := r.Of("mail", addr); by == "" {
		t.Error("another AppVM of this address is started too")
	}
}
