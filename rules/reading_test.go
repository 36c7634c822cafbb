package rules

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vifproxy/rules/expression"
)

func TestBuiltinTemplateInTinyproxy(t *testing.T) {
	p, err := start(t, Syntax{}, []byte(`^www\.example\.com$`))
	must(t, err)
	for _, c := range []struct {
		method, url string
		want        int
	}{
		{"GET", "http://www.example.com/", 200},
		{"GET", "http://WWW.example.com:8080/", 200},
		{"GET", "http://example.com/", 403},
		{"CONNECT", "www.example.com:443", 200},
		{"CONNECT", "www.example.com:22", 403},
		{"CONNECT", "secret.example:443", 403},
	} {
		if got := p.Status(c.method, c.url); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.url, got, c.want)
		}
	}
	log, err := os.ReadFile(p.Log)
	must(t, err)
	if !bytes.Contains(log, []byte(`Proxying refused on filtered domain "secret.example"`)) {
		t.Errorf("the refused host is not in the log:\n%s", log)
	}
}

func TestNothingIsPermittedByAnEmptyFile(t *testing.T) {
	p, err := start(t, Syntax{}, nil)
	must(t, err)
	if p.Permits("www.example.com") {
		t.Error("permitted")
	}
}

// TestBadRegex shows that the lines of a black list are left to tinyproxy and its C library: a proxy that has bad ones
// does not start.
func TestBadRegex(t *testing.T) {
	f, err := ParseFile(somePath, []byte("^a$\n[\n"))
	must(t, err)
	lines, err := f.Lines(Syntax{DefaultAllow: true})
	must(t, err)
	_, err = start(t, Syntax{}, staged(lines))
	checkError(t, "[", err, "exit status 65")
}

// Those of the seeds that are accepted.
var seedFiles = []string{"bank.10.137.2.13", "crlf.10.137.2.14", "names.10.137.2.15", "bom.10.137.2.16",
	"empty.10.137.2.20"}

func TestSeedsInTinyproxy(t *testing.T) {
	for _, name := range seedFiles {
		content, err := os.ReadFile(filepath.Join("testdata/rules", name))
		must(t, err)
		if lines := compare(t, content, Syntax{}, someHosts); lines == nil && len(content) > 0 {
			t.Errorf("%s: tinyproxy did not get to read it", name)
		}
	}
	for _, name := range []string{"cut.10.137.2.17", "latin1.10.137.2.18", "star.10.137.2.19"} {
		path := filepath.Join("testdata/rules", name)
		content, err := os.ReadFile(path)
		must(t, err)
		if _, err := ParseFile(path, content); err == nil {
			t.Errorf("%s: accepted", path)
		}
	}
}

func TestDomainsInTinyproxy(t *testing.T) {
	content := []byte("#: format domains\nexample.com\n*.example.org\nbücher.example\na_b.c-d.e1\n*.local\n")
	hosts := slices.Concat(someHosts, []string{
		"example.com", "EXAMPLE.com.", "example.com..", "www.example.com", "examplexcom", "myexample.com",
		"example.com.evil.org", "example.org", ".example.org", "www.example.org", "a.b.example.org.",
		"WWW.EXAMPLE.ORG", "myexample.org", "www.example.org.evil.com", "xn--bcher-kva.example",
		"XN--BCHER-KVA.example", "a_b.c-d.e1", "203.0.113.9\t.example.org", "evil.com#.example.org",
		"evil.com?.example.org", "printer.local",
	})
	for _, s := range syntaxes {
		if lines := compare(t, content, s, hosts); lines == nil {
			t.Errorf("tinyproxy did not get to read the names under %+v", s)
		}
	}
}

// TestPatternsInTinyproxy writes files as people do, from patterns that are known, and asks whether our
// reading and tinyproxy's are both these patterns.
func TestPatternsInTinyproxy(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 1))
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	for round := range 8 {
		syntax := syntaxes[round%4]
		var content strings.Builder
		var patterns []string
		for len(patterns) < 6 {
			var pattern string
			for range 1 + random.IntN(6) {
				pattern += pick(strings.Fields(`a b www example com \. . - [ab] [^.] [[:digit:]] ^ $ * .*
					\(ab\) (ab) a\{1,2\} a{1,2} | \| + ? \# E`))
			}
			if _, ok := grep(t, syntax, pattern, nil); !ok {
				continue
			}
			patterns = append(patterns, pattern)
			content.WriteString(pick([]string{"", "", "# a comment\n", "\n", " \t\r\n"}))
			content.WriteString(pick([]string{"", "", " ", "\t"}) + pattern)
			content.WriteString(pick([]string{"\n", "\n", "\r\n", " \n", "\t # why\n", " #why\r\n"}))
		}
		compare(t, []byte(content.String()), syntax, someHosts)
		syntax.DefaultAllow = true // as it is written
		lines := compare(t, []byte(content.String()), syntax, someHosts)
		for i, line := range lines {
			if line.Text != patterns[i] {
				t.Errorf("%q was read as %+v", patterns, lines)
				break
			}
		}
		if len(lines) != len(patterns) {
			t.Errorf("%q: tinyproxy got %d lines", patterns, len(lines))
		}
	}
}

// FuzzInTinyproxy runs tinyproxy with whatever is accepted.
func FuzzInTinyproxy(f *testing.F) {
	for i, name := range seedFiles {
		content, err := os.ReadFile(filepath.Join("testdata/rules", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content, byte(i), "www.bank.example")
	}
	f.Fuzz(func(t *testing.T, content []byte, syntax byte, host string) {
		hosts := []string{"www.example.com", "a", "login.bank.example"}
		// What a client can put between "http://" and "/" and what reaches the filter as it is.
		host = strings.Map(func(r rune) rune {
			if isUnprintable(r) || strings.ContainsRune("/@:[]", r) {
				return -1
			}
			return r
		}, host)
		if host != "" && len(host) < 300 {
			hosts = append(hosts, host)
		}
		compare(t, content, syntaxes[int(syntax)%len(syntaxes)], hosts)
	})
}

var someHosts = []string{
	"a", "b", "ab", "aab", "abab", "www.example.com", "wwwxexample.com", "WWW.Example.COM", "example.com",
	"example.com.evil.org", "my-example.com", "1.a.b", "com", "(ab)", "a{1,2}", "a|b", "a+", "b?", "#", "E",
	"www.bank.example", "login.bank.example", "api12.bank.example", "api123.bank.example", "x.cdn.example",
	"static.example.com", "bom.example",
}

// compare asks tinyproxy about hosts and holds its answers against those of an oracle: for patterns grep, for
// names plain comparison of strings. Nothing but host names passes compiled lines. A file of patterns must also mean the same to tinyproxy when it reads
// the file itself. Content that is refused, or has a pattern that the C library refuses, is passed over. The
// result is the lines that tinyproxy was given.
func compare(t *testing.T, content []byte, syntax Syntax, hosts []string) []Line {
	t.Helper()
	f, err := ParseFile(somePath, content)
	if err != nil {
		return nil
	}
	lines, err := f.Lines(syntax)
	if err != nil || len(lines) > 20 {
		return nil
	}
	want := make([]bool, len(hosts))
	for _, entry := range f.entries {
		matched, ok := named(entry.Text, hosts), true
		if !f.domains {
			matched, ok = grep(t, syntax, entry.Text, hosts)
		}
		if !ok {
			return nil
		}
		for i := range want {
			want[i] = want[i] || matched[i]
		}
	}
	filters := map[string][]byte{"our lines": staged(lines)}
	if !f.domains {
		filters["the file"] = bytes.TrimPrefix(content, []byte("\ufeff"))
	}
	for what, filter := range filters {
		reading := syntax
		if what == "our lines" {
			reading = syntax.Compiled()
		}
		p, err := start(t, reading, filter)
		if err != nil && strings.Contains(err.Error(), "Bad regex") {
			return nil
		}
		if err != nil {
			t.Fatalf("%s of %q under %+v: %v", what, content, syntax, err)
		}
		for i, host := range hosts {
			if !f.domains && syntax.Language == expression.Fnmatch {
				continue // no oracle
			}
			want := want[i] && (what == "the file" || !syntax.Narrows() || isHost(host))
			if got := p.Permits(host); got != want {
				t.Errorf("%s of %q under %+v: host %q permitted: %v, want %v",
					what, content, syntax, host, got, want)
			}
		}
	}
	return lines
}

func isHost(text string) bool {
	return strings.Trim(text, "-_.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == ""
}

// named is the oracle for names: which of the hosts a name stands for.
func named(name string, hosts []string) []bool {
	matched := make([]bool, len(hosts))
	for i, host := range hosts {
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		if apex, wildcard := strings.CutPrefix(name, "*."); wildcard {
			below, ok := strings.CutSuffix(host, "."+apex)
			proper := !strings.HasPrefix(below, ".") && !strings.HasSuffix(below, ".") && !strings.Contains(below, "..")
			matched[i] = ok && below != "" && proper && isHost(below)
		} else {
			matched[i] = host == name // its characters are those of host names
		}
	}
	return matched
}

var costly = regexp.MustCompile(`\\[1-9]|[0-9]{3}`)

// grep is the oracle for patterns: which of the hosts a pattern matches. It is not ok if grep finds fault
// with the pattern. expression.Fnmatch has no such oracle, and nothing matches.
func grep(tb testing.TB, syntax Syntax, pattern string, hosts []string) (matched []bool, ok bool) {
	matched = make([]bool, len(hosts))
	if syntax.Language == expression.Fnmatch {
		return matched, true
	}
	// Repetitions of repetitions, and back references, can take the C library more time and memory than there
	// is.
	if strings.Count(pattern, "{") > 1 || costly.MatchString(pattern) {
		return matched, false
	}
	args := []string{"-n", "-e", pattern}
	if !syntax.CaseSensitive {
		args = append(args, "-i")
	}
	if syntax.Language == expression.Extended {
		args = append(args, "-E")
	}
	cmd := exec.Command("grep", args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader(strings.Join(hosts, "\n") + "\n")
	var output, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &complaints
	if err := cmd.Run(); cmd.ProcessState == nil {
		tb.Fatal(err)
	}
	if cmd.ProcessState.ExitCode() > 1 || complaints.Len() > 0 {
		return matched, false
	}
	for line := range strings.Lines(output.String()) {
		number, _, _ := strings.Cut(line, ":")
		if n, err := strconv.Atoi(number); err == nil && n <= len(hosts) {
			matched[n-1] = true
		}
	}
	return matched, true
}
