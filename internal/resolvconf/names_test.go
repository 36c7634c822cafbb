package resolvconf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReader(t *testing.T) {
	dir := t.TempDir()
	conf, hosts := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	r := NewReader(conf, hosts)
	r.hostName = func() (string, error) { return "sys-firewall", nil }
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	is := func(want string) {
		t.Helper()
		s, err := r.Read()
		if got := fmt.Sprint(s); err != nil || r.Problem() != nil || got != want {
			t.Errorf("%s, %v\nwant %s", got, err, want)
		}
	}
	is("{[127.0.0.1] [] 1 [] false }") // no file
	write(conf, "# x\nnameserver 10.139.1.1\nsearch a.lan. b.lan # c.lan\noptions edns0 ndots:2 trust-ad\nnameserver 10.139.1.2\nnameserver 10.139.1.1\n")
	write(hosts, "127.0.0.1\tlocalhost\n10.1.1.1 nas.lan. nas # our disk\n\n# 1.1.1.1 not\nnonsense x\n::1 localhost ip6-localhost\n10.1.1.2\n")
	is("{[10.139.1.1 10.139.1.2] [a.lan b.lan] 2 [{127.0.0.1 [localhost]} {10.1.1.1 [nas.lan nas]} {::1 [localhost ip6-localhost]}] false }")
	write(hosts, "")
	write(conf, "search a.lan\ndomain b.lan c.lan\noptions ndots:99\noptions ndots:x")
	is("{[127.0.0.1] [b.lan] 15 [] false }")
	r.hostName = func() (string, error) { return "fw.corp.example.", nil }
	is("{[127.0.0.1] [b.lan] 15 [] false corp.example}")
	write(conf, "nameserver 10.139.1.1")
	is("{[10.139.1.1] [corp.example] 1 [] false corp.example}") // by default
	write(conf, "nameserver 10.139.1.1\nsearch .")
	is("{[10.139.1.1] [] 1 [] false corp.example}") // nothing is wanted

	// What cannot be read stays as it was known, and the rest is read.
	if err := errors.Join(os.Remove(conf), unix.Mkfifo(conf, 0o600)); err != nil {
		t.Fatal(err)
	}
	write(hosts, "10.1.1.1 nas\n")
	s, err := r.Read()
	if fmt.Sprint(s) != "{[10.139.1.1] [] 1 [{10.1.1.1 [nas]}] false corp.example}" || err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("%v, %v", s, err)
	}
}

// What is too long is cut, and an error says so.
func TestReaderIsBounded(t *testing.T) {
	dir := t.TempDir()
	conf, hosts := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	for _, test := range []struct {
		conf, hosts    string
		servers, lines int
		search         int
		err            string
	}{
		{strings.Repeat("nameserver 10.139.1.1\n", 3000), "", 0, 0, 0, "more than 65536 bytes"},
		{"search " + strings.Repeat("lan ", 30) + strings.Repeat("x", 300) + "\n", "", 1, 0, domainsMax, ""},
		{"nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n", "", asked, 0, 0, ""},
		{"", strings.Repeat("0.0.0.0 ads.example\n", 5000), 1, hostLinesMax, 0, "only its first 4096 lines count"},
		{"", strings.Repeat("# much ado about nothing\n", 50000) + "10.1.1.1 nas\n", 1, 0, 0, "more than 1048576 bytes"},
		{"", strings.Repeat("0.0.0.0 "+strings.Repeat("x", 300)+"\n", 3000), 1, 0, 0, ""},
	} {
		if err := errors.Join(os.WriteFile(conf, []byte(test.conf), 0o644), os.WriteFile(hosts, []byte(test.hosts), 0o644)); err != nil {
			t.Fatal(err)
		}
		r := NewReader(conf, hosts)
		r.hostName = func() (string, error) { return "fw", nil }
		s, err := r.Read()
		err = errors.Join(err, r.Problem())
		if len(s.Servers) != test.servers || len(s.Hosts) != test.lines || len(s.Search) != test.search ||
			(err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%d servers, %d lines, %d domains, %v; want %v", len(s.Servers), len(s.Hosts), len(s.Search), err, test)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("nameserver 10.139.1.1\nsearch a b\noptions ndots:3")
	f.Add("127.0.0.1 localhost # x\n::1%lo x")
	f.Fuzz(func(t *testing.T, text string) {
		servers, search, dots := parseConf(text)
		hosts, _ := parseHosts(text)
		if len(servers) == 0 || len(servers) > asked || len(search) > domainsMax || dots < 0 || dots > dotsMax || len(hosts) > hostLinesMax {
			t.Error("out of bounds")
		}
		for _, addr := range servers {
			if !addr.IsValid() || addr.Zone() != "" || addr.Is4In6() {
				t.Error(addr)
			}
		}
	})
}
