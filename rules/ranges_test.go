package rules

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRangeNames(t *testing.T) {
	for base, want := range map[string]string{
		"disp.10.138.0.0_16":              "disp 10.138.0.0/16",
		"my.disp.10.138.4.0_22":           "my.disp 10.138.4.0/22",
		"fifteen-letters.10.138.0.0_16":   "fifteen-letters 10.138.0.0/16",
		"sixteen--letters.10.138.0.0_16":  "cannot begin the names",
		"10.138.0.0_16":                   "cannot begin the names",
		"disp.10.138.0.1_16":              "name it disp.10.138.0.0_16",
		"disp.10.138.0.0_32":              "name it disp.10.138.0.0)",
		"disp.10.138.0.0_33":              "is not a range",
		"disp.10.138.0.0_016":             "is not a range",
		"disp.10.138.0.256_16":            "is not a range",
		"disp.10.0.0.0_8":                 "disp 10.0.0.0/8",
		"disp.8.0.0.0_7":                  "/8 or narrower",
		"disp.0.0.0.0_0":                  "/8 or narrower",
		".disp.10.138.0.0_16":             "",
		"disp.10.138.0.0_16~":             "",
		"disp.10.138.0.0":                 "",
		"disp.10.138.0.0_":                "",
		"disp.10.138.0.0-16":              "",
		"disp.2001:db8::_16":              "",
		"disp.10.138.0.0_99999999999999":  "is not a range",
		"disp.10.138.0.0_16\n.10.0.0.0_8": "cannot begin the names",
	} {
		name, in, err := ParseRangeName("/x/" + strings.ReplaceAll(base, "/", "\x00"))
		got := ""
		switch {
		case err != nil:
			got = err.Error()
		case in.IsValid():
			got = name + " " + in.String()
		}
		if err == nil && got != want || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", base, got, want)
		}
	}
}

// The narrowest range counts, a list of an AppVM's own before any, and two files for one range are refused.
func TestRanges(t *testing.T) {
	const names = "#: format domains\n"
	first := []List{elsewhere("named", "10.138.0.9", "/dom0/named", "named.example")}
	_, set := readWith(t, Lists{First: first, Last: []List{elsewhere("vm-10.138.0.7", "10.138.0.7", "/last/7", "last.example")}}, map[string]string{
		"disp.10.138.0.0_16": names + "wide.example\n", "few.10.138.4.0_24": names + "narrow.example\n", "own.10.138.4.1": names + "own.example\n",
		"one.10.139.0.0_16": names, "two.10.139.0.0_16": names, "wide.10.0.0.0_8": names + "widest.example\n", "bad.10.138.5.0_24": "a b\n",
		"worse.10.138.6.0_24": "[\n", "refused.10.138.4.2": "a b\n",
	})
	for addr, want := range map[string]string{
		"10.138.0.1": "disp-10.138.0.1 wide.example", "10.138.4.3": "few-10.138.4.3 narrow.example", "10.138.4.1": "own own.example",
		"10.138.0.9": "named named.example", "10.138.0.7": "vm-10.138.0.7 last.example", "10.137.0.1": "wide-10.137.0.1 widest.example",
		"10.139.0.1": "", "10.138.5.1": "", "10.138.4.2": "", "11.0.0.1": "",
	} {
		got := ""
		if f, ok := set.Of(netip.MustParseAddr(addr)); ok {
			got = f.Name + " " + f.Entries()[0].Text
			if f.Addr.String() != addr {
				t.Errorf("%s: the list of %s", addr, f.Addr)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
	var texts []string
	for _, r := range set.Refused {
		if r.In.IsValid() && r.Name != "" {
			t.Errorf("refused for a range, and named: %+v", r)
		}
		texts = append(texts, r.Err.Error())
	}
	all := strings.Join(texts, "\n")
	for _, want := range []string{"the range 10.139.0.0/16 is also that of", "one.10.139.0.0_16", "two.10.139.0.0_16", "bad.10.138.5.0_24:1"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
}

// A file that has become empty is one that somebody may write now: for an AppVM or for a range, with good rules in it before or not.
func TestTruncated(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"disp.10.138.0.0_16", "work.10.137.0.11"} {
		for _, c := range []struct {
			before, now string // "-": there is no file
			want        bool
		}{
			{"^a$\n", "", true}, {"a b\n", "", true}, {"", "", false}, {"-", "", false}, {"^a$\n", "-", false}, {"", "^a$\n", false},
			{"^a$\n", "^b$\n", false}, {"^a$\n", "#\n", false}, {"^a$\n", "a b\n", false},
		} {
			read := func(content string) Set {
				path := filepath.Join(dir, name)
				os.Remove(path)
				if content != "-" {
					write(t, path, content)
				}
				write(t, filepath.Join(dir, "empty.10.137.0.12"), "")
				write(t, filepath.Join(dir, "empty.10.139.0.0_16"), "")
				set, err := Read(dir, filepath.Join(dir, "config"))
				must(t, err)
				return set
			}
			before := read(c.before)
			if is := read(c.now).Truncated(before); is != c.want {
				t.Errorf("%s: %q, and then %q: %v", name, c.before, c.now, is)
			}
		}
	}
}
