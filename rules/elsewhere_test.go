package rules

import (
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func elsewhere(name, addr, path string, lines ...string) List {
	ip, _ := netip.ParseAddr(addr)
	return List{Name: name, Addr: ip, Path: path, Origin: InDom0, Lines: lines,
		Remedy: func(lines []string) string { return "set it to " + strings.Join(lines, " ") }}
}

// readWith reads a directory with files beside other lists. It returns what each AppVM's list is, or the error.
func readWith(t *testing.T, lists Lists, files map[string]string) (all map[string]string, set Set) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(dir, name), content)
	}
	r := NewReader(dir, filepath.Join(dir, "config"))
	r.Also(func() (Lists, error) { return lists, nil }, func() bool { return false })
	set, err := r.Read()
	must(t, err)
	all = map[string]string{}
	for _, f := range set.Files {
		var texts []string
		for _, e := range f.Entries() {
			texts = append(texts, e.Text)
		}
		all[f.Name+" "+f.Addr.String()] = string(f.Origin) + " " + strings.Join(texts, " ")
	}
	for _, refused := range set.Refused {
		all[refused.Name+" "+refused.Addr.String()] = strings.ReplaceAll(refused.Err.Error(), dir, "DIR")
	}
	return all, set
}

// Of the lists for one AppVM the first counts, whether it can be used or not.
func TestTheFirstListCounts(t *testing.T) {
	const names = "#: format domains\n"
	first := []List{
		elsewhere("banking", "10.137.0.11", "/dom0/banking", "bank.example"),
		elsewhere("bad", "10.137.0.12", "/dom0/bad", "a.example", "b,example"),
		elsewhere("meant", "10.137.0.13", "/dom0/meant", "a.example", "https://b.example/"),
		elsewhere("empty", "10.137.0.14", "/dom0/empty"),
		elsewhere("twice", "10.137.0.15", "/dom0/twice", "a.example"),
		elsewhere("again", "10.137.0.15", "/dom0/again", "b.example"),
		elsewhere("../x", "10.137.0.16", "/dom0/x", "a.example"),
		elsewhere("nobody", "", "/dom0/nobody", "a.example"),
		elsewhere("late", "10.137.0.20", "/dom0/late", "#: format patterns"),
	}
	last := []List{
		elsewhere("vm-10.137.0.11", "10.137.0.11", "/last/11", "evil.example"),
		elsewhere("vm-10.137.0.12", "10.137.0.12", "/last/12", "evil.example"),
		elsewhere("vm-10.137.0.17", "10.137.0.17", "/last/17", "evil.example"),
		elsewhere("vm-10.137.0.18", "10.137.0.18", "/last/18", "c.example"),
		elsewhere("banking", "10.137.0.19", "/last/19", "evil.example"),
	}
	got, set := readWith(t, Lists{First: first, Last: last, Again: time.Minute}, map[string]string{
		"banking.10.137.0.11": names + "evil.example\n", "bad.10.137.0.12": names + "evil.example\n",
		"bank.10.137.0.13": "[\n", "empty.10.137.0.21": names + "evil.example\n", "own.10.137.0.17": "a b\n",
	})
	for who, want := range map[string]string{
		"banking 10.137.0.11":        "dom0 bank.example",
		"bad 10.137.0.12":            `"b,example"`,
		"meant 10.137.0.13":          "set it to a.example b.example",
		"empty 10.137.0.14":          "dom0 ",
		"twice 10.137.0.15":          "/dom0/again",
		"again 10.137.0.15":          "/dom0/twice",
		" 10.137.0.16":               "is not a VM name",
		"nobody invalid IP":          "is not an IPv4 address",
		"own 10.137.0.17":            "DIR/own.10.137.0.17:1",
		"vm-10.137.0.18 10.137.0.18": "dom0 c.example",
		"banking 10.137.0.19":        "is also that of /dom0/banking",
		"empty 10.137.0.21":          "is also that of /dom0/empty",
		"late 10.137.0.20":           "the format is chosen",
	} {
		if !strings.Contains(got[who], want) || strings.HasPrefix(want, "dom0") && got[who] != want {
			t.Errorf("%s: %q, want %q", who, got[who], want)
		}
		delete(got, who)
	}
	if len(got) > 0 {
		t.Errorf("and also %q", got)
	}
	if set.Again != time.Minute || set.Unknown != nil {
		t.Errorf("again after %v, unknown: %v", set.Again, set.Unknown)
	}
}

// What could not be read elsewhere stays as it was last known, while files are read; and Changed asks elsewhere too.
func TestUnknownElsewhere(t *testing.T) {
	dir := t.TempDir()
	r := NewReader(dir, filepath.Join(dir, "config"))
	failure, changed := error(nil), false
	lists := []List{elsewhere("banking", "10.137.0.11", "/dom0/banking", "bank.example")}
	r.Also(func() (Lists, error) { return Lists{First: lists}, failure }, func() bool { return changed })
	if set, err := r.Read(); err != nil || len(set.Files) != 1 || set.Unknown != nil || set.Again != 0 {
		t.Errorf("at first: %+v, %v", set, err)
	}
	if r.Changed() {
		t.Error("changed before anything has")
	}
	changed, failure, lists = true, errors.New("silent"), nil
	write(t, filepath.Join(dir, "work.10.137.0.12"), bankNames)
	set, err := r.Read()
	if err != nil || len(set.Files) != 2 || !errors.Is(set.Unknown, failure) || set.Again != unknownRetry {
		t.Errorf("then: %+v, %v", set, err)
	}
	if !slices.ContainsFunc(set.Files, func(f File) bool { return f.Origin == InDom0 }) || !r.Changed() {
		t.Errorf("then: %+v", set.Files)
	}
	if failure = nil; len(must1(r.Read()).Files) != 1 {
		t.Error("when it is known that they are gone, they are gone")
	}
}

const bankNames = "#: format domains\nbank.example\n"

func must1(set Set, err error) Set {
	if err != nil {
		panic(err)
	}
	return set
}
